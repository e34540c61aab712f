"""The network of one sandbox, carried by a process of its own beside it.

serve      the process: takes what it was given, wires the parts, ends with the sandbox
loop       one epoll and the timers         account    what is reported
tun        packets from and to the sandbox  packets    their formats
tcp        held SYNs, accepted connections  relay      bytes between two sockets
udp, icmp  flows of datagrams and echoes    publish    ports of the host
egress     the judge of the policy            hello      names in first bytes
routes     what the host calls its own        upstreams  its name servers
dns        the name server inside             message    the format of DNS
confine    what the process gives up
"""
