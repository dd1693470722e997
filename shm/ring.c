#include "ring.h"
int ring_version(void) { return 1; }
