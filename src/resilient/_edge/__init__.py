"""What the two middlewares share: options, refusals, deadlines, and the call's way in."""
