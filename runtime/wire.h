int wire_version(void);
