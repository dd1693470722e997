int ring_version(void);
