-- An organization that was closed keeps its row: its audit log and what was struck are about it. 0: it is in use.

ALTER TABLE organizations ADD COLUMN closed_ms BIGINT NOT NULL DEFAULT 0;
