"""What the library knows: state machines that never wait, with time and chance handed in."""
