-- Roles, devices that wait or are out, settings; the chained audit log; answers that are kept for who asks again.

ALTER TABLE users ADD COLUMN role TEXT NOT NULL DEFAULT 'member';

ALTER TABLE devices ADD COLUMN state TEXT NOT NULL DEFAULT 'active';

ALTER TABLE enrolment_keys ADD COLUMN approval BIGINT NOT NULL DEFAULT 0;

ALTER TABLE organizations ADD COLUMN approve_devices BIGINT NOT NULL DEFAULT 0;

-- In days; 0: for ever.
ALTER TABLE organizations ADD COLUMN audit_retention_days BIGINT NOT NULL DEFAULT 0;

ALTER TABLE organizations ADD COLUMN flow_retention_days BIGINT NOT NULL DEFAULT 0;

-- Numbers count within a chain: one for each organization, one for the installation. Entries from before have none.
ALTER TABLE audit ADD COLUMN seq BIGINT;

ALTER TABLE audit ADD COLUMN source TEXT NOT NULL DEFAULT '';

ALTER TABLE audit ADD COLUMN request TEXT NOT NULL DEFAULT '';

ALTER TABLE audit ADD COLUMN object_before TEXT;

ALTER TABLE audit ADD COLUMN object_after TEXT;

ALTER TABLE audit ADD COLUMN hash TEXT NOT NULL DEFAULT '';

CREATE UNIQUE INDEX audit_by_number ON audit (organization, seq);

-- The end of each chain, and where it begins since older entries were removed. organization is NULL for the
-- installation's.
CREATE TABLE audit_heads (
    chain        TEXT   PRIMARY KEY,
    organization TEXT   REFERENCES organizations (id),
    seq          BIGINT NOT NULL,
    hash         TEXT   NOT NULL,
    first_seq    BIGINT NOT NULL,
    before_first TEXT   NOT NULL
);

-- organization is NULL for changes of the installation.
CREATE TABLE kept_answers (
    key          TEXT   PRIMARY KEY,
    organization TEXT   REFERENCES organizations (id),
    fingerprint  TEXT   NOT NULL,
    answer       TEXT,
    at_ms        BIGINT NOT NULL
);

CREATE INDEX kept_answers_by_time ON kept_answers (at_ms);
