int histogram_version(void);
