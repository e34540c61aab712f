"""The network of one sandbox, carried by a process of its own beside it.

driver     starts the process, and hands over what was opened inside
serve      the process: takes what it was given, wires the parts, ends with the sandbox
setting    what the parts share             confine    what the process gives up
loop       one epoll and the timers         account    what is reported
tun        packets from and to the sandbox  packets    their formats
tcp        held SYNs, accepted connections  relay      bytes between two sockets
udp, icmp  flows of datagrams and echoes    fragments  datagrams in pieces, whole again
egress     the judge of the policy          hello      names in first bytes
routes     what the host calls its own      upstreams  its name servers
dns        the name server inside           message    the format of DNS
publish    ports of the host                dns_tcp_*  DNS over TCP: from the sandbox (server), to
                                                       the host's name servers (client)
"""
