-- What several controllers on one database tell each other beside the configuration. `notes` is raised with each of it, so
-- that one cheap row says whether there is anything to read.

ALTER TABLE installation ADD COLUMN notes BIGINT NOT NULL DEFAULT 0;

-- Web sessions that were signed out before their time.
CREATE TABLE ended_sessions (
    id           TEXT   PRIMARY KEY,
    organization TEXT   NOT NULL REFERENCES organizations (id),
    expires_ms   BIGINT NOT NULL
);

-- The newest one-time code that an account has used: none up to it works again.
CREATE TABLE used_codes (
    account      TEXT   PRIMARY KEY,
    organization TEXT   NOT NULL REFERENCES organizations (id),
    step         BIGINT NOT NULL
);
