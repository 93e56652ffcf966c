"""Lightning callbacks: they write buffers of the module, or files; none reads another."""
