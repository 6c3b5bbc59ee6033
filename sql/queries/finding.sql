SELECT document FROM findings WHERE fingerprint = :fingerprint;
