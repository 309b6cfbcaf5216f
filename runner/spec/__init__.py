"""The job spec: its fields, and how the untrusted bytes of a dropped file become one."""
