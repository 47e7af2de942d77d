"""The commands of `bigtcp-bench` that ask the warehouse, or judge a file; each calls the library once."""
