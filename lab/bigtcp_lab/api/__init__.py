"""The lab's emulated Kubernetes API: objects in memory, served the way real clients expect."""
