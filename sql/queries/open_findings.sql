-- What is open, or was open and cannot be checked now.
SELECT document FROM findings WHERE state IN ('open', 'held') ORDER BY changed_at, fingerprint;
