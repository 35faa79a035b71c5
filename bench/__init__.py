"""What a protected call costs, beside other libraries and code written by hand."""
