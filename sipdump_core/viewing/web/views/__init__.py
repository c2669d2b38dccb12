"""The views of the page, a file each: a function takes a request and returns a response."""
