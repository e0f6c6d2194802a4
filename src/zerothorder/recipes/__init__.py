"""Published methods, one a file: parts, defaults, paper."""
