-- Keeps a finding as it stands now.
INSERT INTO findings (fingerprint, document, changed_at)
VALUES (:fingerprint, :document, :changed_at)
ON CONFLICT (fingerprint) DO UPDATE
SET document = excluded.document, changed_at = excluded.changed_at;
