-- The findings of one state that changed last.
SELECT document FROM findings WHERE state = :state ORDER BY changed_at DESC LIMIT :limit;
