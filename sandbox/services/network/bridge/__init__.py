"""Networks of the host's own: a bridge each, which root's sandboxes are plugged into.

Everything that is known of them lies in files below `definitions.BASE`; what the kernel has to hold
(links, addresses, the table `inet sbx`) follows from these and can be made again from them. A
sandbox's address is a file that is locked as long as the sandbox lives, so a death that nobody saw
gives it back. Whoever changes anything holds the one lock of `definitions.Gate`.
"""
