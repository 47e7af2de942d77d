"""What is mounted into pods: standard library only, in the syntax of Python 3.9."""
