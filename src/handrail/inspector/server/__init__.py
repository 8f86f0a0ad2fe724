"""The inspector: pages over run folders, served to this machine alone.  They read and never write."""




