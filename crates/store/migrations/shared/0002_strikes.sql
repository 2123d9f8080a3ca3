-- What was ever struck. Outside the versions: a strike never waits for the database, and its row follows.
-- It is never lowered and never removed: a database that is read again never revives a struck generation.
CREATE TABLE struck_generations (
    subject    TEXT   PRIMARY KEY,
    generation BIGINT NOT NULL
);

-- Entries that were written down outside the database first carry an id, so that none is stored twice.
ALTER TABLE audit ADD COLUMN event TEXT;

CREATE UNIQUE INDEX audit_by_event ON audit (event);

-- The version whose change was allowed to remove much at once; 0: none.
ALTER TABLE organizations ADD COLUMN shrink_version BIGINT NOT NULL DEFAULT 0;
