/* A fake of the plugins' library, for tests: it says what it was built from, and to the fake of TensorRT what it has. */
char const* edgesmith_source_digest(void) { return DIGEST; }
char const* fake_operators(void) { return "EnlargeArgmax:1 ZoomedConv:1"; }
