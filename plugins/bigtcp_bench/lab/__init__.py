"""A one-machine cluster: real datapath, emulated Kubernetes API and Cilium agent."""
