-- The SQL subset shared with PostgreSQL: TEXT, BIGINT (milliseconds, counters, 0/1), JSON as TEXT.
-- Names that are keywords in one of the two are avoided: user_groups, not groups.

CREATE TABLE installation (
    singleton   BIGINT PRIMARY KEY CHECK (singleton = 1),
    id          TEXT   NOT NULL,
    incarnation BIGINT NOT NULL,
    version     BIGINT NOT NULL,
    created_ms  BIGINT NOT NULL
);

CREATE TABLE organizations (
    id             TEXT   PRIMARY KEY,
    name           TEXT   NOT NULL UNIQUE,
    incarnation    BIGINT NOT NULL,
    version        BIGINT NOT NULL,
    grant_life_ms  BIGINT NOT NULL,
    renew_after_ms BIGINT NOT NULL,
    created_ms     BIGINT NOT NULL
);

CREATE TABLE pops (
    id           TEXT   PRIMARY KEY,
    name         TEXT   NOT NULL UNIQUE,
    region       TEXT   NOT NULL,
    zone         TEXT   NOT NULL,
    address      TEXT   NOT NULL,
    identity_key TEXT   NOT NULL UNIQUE,
    generation   BIGINT NOT NULL,
    enrolled_by  TEXT   NOT NULL,
    created_ms   BIGINT NOT NULL
);

CREATE TABLE sites (
    id           TEXT   PRIMARY KEY,
    organization TEXT   NOT NULL REFERENCES organizations (id),
    name         TEXT   NOT NULL,
    prefixes     TEXT   NOT NULL,
    regions      TEXT   NOT NULL,
    created_ms   BIGINT NOT NULL,
    UNIQUE (organization, name)
);

CREATE TABLE connectors (
    id            TEXT   PRIMARY KEY,
    organization  TEXT   NOT NULL REFERENCES organizations (id),
    site          TEXT   NOT NULL REFERENCES sites (id),
    name          TEXT   NOT NULL,
    identity_key  TEXT   NOT NULL UNIQUE,
    wireguard_key TEXT   NOT NULL UNIQUE,
    seal_key      TEXT   NOT NULL,
    generation    BIGINT NOT NULL,
    enrolled_by   TEXT   NOT NULL,
    created_ms    BIGINT NOT NULL,
    UNIQUE (organization, name)
);

CREATE TABLE resources (
    id           TEXT   PRIMARY KEY,
    organization TEXT   NOT NULL REFERENCES organizations (id),
    site         TEXT   NOT NULL REFERENCES sites (id),
    name         TEXT   NOT NULL,
    alias        TEXT,
    address      TEXT   NOT NULL,
    ports        TEXT   NOT NULL,
    mode         TEXT   NOT NULL,
    created_ms   BIGINT NOT NULL,
    UNIQUE (organization, name),
    UNIQUE (organization, alias)
);

CREATE TABLE user_groups (
    id           TEXT   PRIMARY KEY,
    organization TEXT   NOT NULL REFERENCES organizations (id),
    name         TEXT   NOT NULL,
    created_ms   BIGINT NOT NULL,
    UNIQUE (organization, name)
);

CREATE TABLE users (
    id           TEXT   PRIMARY KEY,
    organization TEXT   NOT NULL REFERENCES organizations (id),
    name         TEXT   NOT NULL,
    email        TEXT   NOT NULL,
    generation   BIGINT NOT NULL,
    created_ms   BIGINT NOT NULL,
    UNIQUE (organization, email)
);

CREATE TABLE service_accounts (
    id           TEXT   PRIMARY KEY,
    organization TEXT   NOT NULL REFERENCES organizations (id),
    name         TEXT   NOT NULL,
    generation   BIGINT NOT NULL,
    created_ms   BIGINT NOT NULL,
    UNIQUE (organization, name)
);

-- A membership that ended keeps its row: joining again raises the generation, so that a strike
-- against the old one never hits the new one and never fails to hit the old one.
CREATE TABLE memberships (
    organization TEXT   NOT NULL REFERENCES organizations (id),
    user_group   TEXT   NOT NULL REFERENCES user_groups (id) ON DELETE CASCADE,
    member       TEXT   NOT NULL,
    generation   BIGINT NOT NULL,
    present      BIGINT NOT NULL,
    PRIMARY KEY (user_group, member)
);

CREATE TABLE devices (
    id           TEXT   PRIMARY KEY,
    organization TEXT   NOT NULL REFERENCES organizations (id),
    owner        TEXT   NOT NULL,
    name         TEXT   NOT NULL,
    identity_key TEXT   NOT NULL UNIQUE,
    generation   BIGINT NOT NULL,
    enrolled_by  TEXT   NOT NULL,
    created_ms   BIGINT NOT NULL
);

CREATE TABLE policies (
    id           TEXT   PRIMARY KEY,
    organization TEXT   NOT NULL REFERENCES organizations (id),
    name         TEXT   NOT NULL,
    created_ms   BIGINT NOT NULL,
    UNIQUE (organization, name)
);

CREATE TABLE policy_groups (
    policy     TEXT NOT NULL REFERENCES policies (id) ON DELETE CASCADE,
    user_group TEXT NOT NULL REFERENCES user_groups (id) ON DELETE CASCADE,
    PRIMARY KEY (policy, user_group)
);

CREATE TABLE policy_resources (
    policy   TEXT NOT NULL REFERENCES policies (id) ON DELETE CASCADE,
    resource TEXT NOT NULL REFERENCES resources (id) ON DELETE CASCADE,
    PRIMARY KEY (policy, resource)
);

-- organization is NULL for keys of the installation (PoPs).
CREATE TABLE enrolment_keys (
    id           TEXT   PRIMARY KEY,
    organization TEXT   REFERENCES organizations (id),
    kind         TEXT   NOT NULL,
    name         TEXT   NOT NULL,
    secret_hash  TEXT   NOT NULL,
    cap          BIGINT NOT NULL,
    uses         BIGINT NOT NULL,
    expires_ms   BIGINT NOT NULL,
    site         TEXT   REFERENCES sites (id) ON DELETE CASCADE,
    owner        TEXT,
    region       TEXT,
    zone         TEXT,
    created_ms   BIGINT NOT NULL
);

CREATE TABLE tokens (
    id           TEXT   PRIMARY KEY,
    organization TEXT   NOT NULL REFERENCES organizations (id),
    name         TEXT   NOT NULL,
    scopes       TEXT   NOT NULL,
    secret_hash  TEXT   NOT NULL,
    expires_ms   BIGINT NOT NULL,
    created_ms   BIGINT NOT NULL,
    UNIQUE (organization, name)
);

CREATE TABLE administrators (
    id              TEXT   PRIMARY KEY,
    name            TEXT   NOT NULL UNIQUE,
    passphrase_hash TEXT   NOT NULL,
    created_ms      BIGINT NOT NULL
);

CREATE TABLE one_time_links (
    secret_hash TEXT   PRIMARY KEY,
    purpose     TEXT   NOT NULL,
    expires_ms  BIGINT NOT NULL
);

CREATE TABLE trust_documents (
    name       TEXT   PRIMARY KEY,
    document   TEXT   NOT NULL,
    updated_ms BIGINT NOT NULL
);

CREATE TABLE audit (
    organization TEXT,
    incarnation  BIGINT NOT NULL,
    version      BIGINT NOT NULL,
    at_ms        BIGINT NOT NULL,
    actor        TEXT   NOT NULL,
    action       TEXT   NOT NULL,
    subject      TEXT   NOT NULL,
    detail       TEXT   NOT NULL
);

CREATE INDEX audit_by_time ON audit (organization, at_ms);
