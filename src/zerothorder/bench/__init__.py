"""`zo bench`: methods × tasks × seeds of a suite file, run, resumed and put side by side."""
