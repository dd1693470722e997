#include "histogram.h"
int histogram_version(void) { return 1; }
