"""What the HTTP clients share: policies around outbound requests."""
