package sandbox

// CoreLimit is the limit of core files, in bytes, of every process that holds a secret. With 0 there is no file, but a program to which
// the host has cores piped (systemd-coredump, apport) still gets the whole memory; of a process whose limit is 1 the kernel makes
// neither (core(5); fs/coredump.c takes 1 for a dump within a dump, and a file would need a page at least).
const CoreLimit = 1
