#include "wire.h"
int wire_version(void) { return 1; }
