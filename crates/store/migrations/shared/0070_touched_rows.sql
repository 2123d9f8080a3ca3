-- Which rows each change touched, for controllers that hold the state before it: they read these alone. A change without a
-- line here is read whole. JSON: kinds of rows, each with its ids, or null for all of a kind.

CREATE TABLE touched_rows (
    organization TEXT   NOT NULL REFERENCES organizations (id),
    incarnation  BIGINT NOT NULL,
    version      BIGINT NOT NULL,
    touched      TEXT   NOT NULL,
    PRIMARY KEY (organization, incarnation, version)
);
