#include "doorbell.h"
int doorbell_version(void) { return 1; }
