-- Appends a transition; the same one a second time changes nothing.
INSERT INTO transitions (fingerprint, at, before, state, acknowledged, reason, document)
VALUES (:fingerprint, :at, :before, :state, :acknowledged, :reason, :document)
ON CONFLICT (fingerprint, at, before, state, acknowledged) DO NOTHING;
