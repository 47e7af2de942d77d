"""A one-machine cluster: real datapath, emulated Kubernetes API and Cilium agent.

From outside: ``daemon`` starts, stops and describes the lab's one process, ``faults`` names its misbehaviours and
``control`` switches them; ``administrator`` applies what a cluster needs before its first run. Inside, ``cluster``
puts the parts together:

- the wires: ``network`` (bridges and veth pairs), ``namespaces``, ``netlink`` (devices' limits), ``syscalls``;
- the API: ``api`` (server, store and their helpers), ``listening``, ``objects`` (what a fresh cluster has), and
  ``controllers`` (scheduler, DaemonSets, Jobs, …), which know only the store;
- the nodes: ``kubelet`` has a ``pod_worker`` per pod, with ``pod_status``, ``volumes``, ``images``, ``security``,
  ``probes`` and ``logs``; ``runtime`` gives the API logs and commands of all nodes;
- the containers: ``containers`` starts ``init`` (first process of all), which forks ``become`` (becomes what a
  ``launch`` says), ``fittings`` says what they find inside; ``cilium``, ``cilium_agent``, ``disguise`` run there.
"""
