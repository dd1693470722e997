int doorbell_version(void);
