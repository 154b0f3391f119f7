package ledger

import "github.com/bulwark-paas/bulwark/internal/db"

func migrations() []db.Migration {
	return []db.Migration{{ID: "ledger-1", SQL: `
CREATE TABLE person (
	id   TEXT PRIMARY KEY,
	name TEXT NOT NULL
) STRICT;
CREATE TABLE key (
	kind        TEXT NOT NULL CHECK (kind IN ('device', 'ssh')),
	fingerprint TEXT NOT NULL,
	public      BLOB NOT NULL,
	person      TEXT NOT NULL REFERENCES person (id),
	removed     INTEGER NOT NULL,
	PRIMARY KEY (kind, fingerprint)
) STRICT;
CREATE TABLE token (
	secret BLOB NOT NULL,
	used   INTEGER NOT NULL
) STRICT;
CREATE TABLE document (
	seq     INTEGER PRIMARY KEY,
	digest  TEXT NOT NULL UNIQUE,
	id      TEXT NOT NULL UNIQUE,
	kind    TEXT NOT NULL,
	app     TEXT NOT NULL,
	person  TEXT NOT NULL,
	body    BLOB NOT NULL,
	receipt TEXT NOT NULL,
	at      TEXT NOT NULL
) STRICT;
CREATE TABLE app (
	id        TEXT PRIMARY KEY,
	name      TEXT NOT NULL,
	project   TEXT NOT NULL,
	block     INTEGER NOT NULL UNIQUE,
	newest    INTEGER NOT NULL DEFAULT 0,
	promoted  INTEGER NOT NULL DEFAULT 0,
	config    INTEGER NOT NULL DEFAULT 0,
	destroyed INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX app_name ON app (name) WHERE destroyed = 0;
CREATE TABLE nonce (
	seed TEXT PRIMARY KEY,
	app  TEXT NOT NULL REFERENCES app (id),
	at   INTEGER NOT NULL
) STRICT;
CREATE TABLE config (
	app      TEXT NOT NULL REFERENCES app (id),
	revision INTEGER NOT NULL,
	digest   TEXT NOT NULL,
	PRIMARY KEY (app, revision)
) STRICT;
CREATE TABLE config_value (
	app    TEXT NOT NULL REFERENCES app (id),
	name   TEXT NOT NULL,
	since  INTEGER NOT NULL,
	until  INTEGER NOT NULL DEFAULT 9223372036854775807,
	sealed BLOB NOT NULL,
	digest TEXT NOT NULL,
	PRIMARY KEY (app, name, since)
) STRICT;
CREATE TABLE build_secret (
	app    TEXT NOT NULL REFERENCES app (id),
	name   TEXT NOT NULL,
	sealed BLOB NOT NULL,
	PRIMARY KEY (app, name)
) STRICT;
CREATE TABLE size (
	app     TEXT NOT NULL REFERENCES app (id),
	process TEXT NOT NULL,
	size    TEXT NOT NULL,
	PRIMARY KEY (app, process)
) STRICT;
CREATE TABLE host (
	host TEXT PRIMARY KEY,
	app  TEXT NOT NULL REFERENCES app (id)
) STRICT;
CREATE TABLE egress (
	app  TEXT NOT NULL REFERENCES app (id),
	rule TEXT NOT NULL,
	PRIMARY KEY (app, rule)
) STRICT;
CREATE TABLE registry (
	host TEXT PRIMARY KEY
) STRICT;
CREATE TABLE build (
	id         TEXT PRIMARY KEY,
	app        TEXT NOT NULL REFERENCES app (id),
	cause      TEXT NOT NULL UNIQUE,
	image      TEXT NOT NULL,
	provenance BLOB NOT NULL
) STRICT;
CREATE TABLE release (
	app        TEXT NOT NULL REFERENCES app (id),
	generation INTEGER NOT NULL,
	cause      TEXT NOT NULL UNIQUE,
	release    BLOB NOT NULL,
	provenance BLOB NOT NULL,
	origin     TEXT NOT NULL,
	PRIMARY KEY (app, generation)
) STRICT;
CREATE TABLE layer (
	blob  TEXT PRIMARY KEY,
	erofs TEXT NOT NULL
) STRICT;
CREATE TABLE image (
	digest TEXT PRIMARY KEY,
	layers TEXT NOT NULL,
	config TEXT NOT NULL
) STRICT;
`}, {ID: "ledger-registries", SQL: `
ALTER TABLE registry ADD COLUMN packages INTEGER NOT NULL DEFAULT 0;
ALTER TABLE registry ADD COLUMN ca TEXT NOT NULL DEFAULT '';
`}, {ID: "ledger-tenants", SQL: tenants},
		// A token that was made before has an hour from the epoch on: it is made anew with one command.
		{ID: "ledger-token-life", SQL: `ALTER TABLE token ADD COLUMN until INTEGER NOT NULL DEFAULT 3600`},
		{ID: "ledger-posture", SQL: posture},
		{ID: "ledger-shield", SQL: `
CREATE TABLE shield (
	app  TEXT PRIMARY KEY REFERENCES app (id),
	body TEXT NOT NULL
) STRICT;
`}, {ID: "ledger-certificate", SQL: `
CREATE TABLE certificate (
	seq    INTEGER PRIMARY KEY AUTOINCREMENT,
	app    TEXT NOT NULL REFERENCES app (id),
	name   TEXT NOT NULL,
	chain  BLOB NOT NULL,
	sealed BLOB NOT NULL,
	UNIQUE (app, name)
) STRICT;
`}, {ID: "ledger-patch", SQL: `
CREATE TABLE patch (
	name    TEXT PRIMARY KEY,
	version INTEGER NOT NULL,
	body    TEXT NOT NULL,
	person  TEXT NOT NULL,
	at      TEXT NOT NULL,
	removed INTEGER NOT NULL
) STRICT;
`}}
}

// tenants is the schema of people's roles. Everybody who was there before was an owner, and stays one.
const tenants = `
CREATE TABLE org (
	id   TEXT PRIMARY KEY,
	name TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE project (
	id   TEXT PRIMARY KEY,
	org  TEXT NOT NULL REFERENCES org (id),
	name TEXT NOT NULL,
	UNIQUE (org, name)
) STRICT;
CREATE TABLE member (
	person  TEXT NOT NULL REFERENCES person (id),
	org     TEXT NOT NULL REFERENCES org (id),
	project TEXT NOT NULL,
	role    TEXT NOT NULL,
	PRIMARY KEY (person, org, project)
) STRICT;
CREATE TABLE invitation (
	fingerprint TEXT PRIMARY KEY,
	public      BLOB NOT NULL,
	name        TEXT NOT NULL,
	org         TEXT NOT NULL REFERENCES org (id),
	project     TEXT NOT NULL,
	role        TEXT NOT NULL,
	inviter     TEXT NOT NULL REFERENCES person (id),
	until       INTEGER NOT NULL,
	ended       INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE access_token (
	id          TEXT PRIMARY KEY,
	name        TEXT NOT NULL,
	fingerprint TEXT NOT NULL UNIQUE,
	public      BLOB NOT NULL,
	person      TEXT NOT NULL REFERENCES person (id),
	scopes      TEXT NOT NULL,
	until       INTEGER NOT NULL,
	ended       INTEGER NOT NULL DEFAULT 0
) STRICT;
ALTER TABLE egress ADD COLUMN private INTEGER NOT NULL DEFAULT 0;
UPDATE egress SET private = 1;
INSERT INTO org (id, name) VALUES ('org_00000000000000000000000000', 'main');
INSERT INTO project (id, org, name) VALUES ('prj_00000000000000000000000000', 'org_00000000000000000000000000', 'main');
INSERT INTO member (person, org, project, role) SELECT id, 'org_00000000000000000000000000', '', 'owner' FROM person;
`

// posture is the prober's own organisation. What signs in with a token of it owns that and nothing else.
const posture = `
ALTER TABLE token ADD COLUMN org TEXT NOT NULL DEFAULT 'org_00000000000000000000000000';
INSERT INTO org (id, name) VALUES ('org_00000000000000000000000004', 'bulwark-posture');
INSERT INTO project (id, org, name) VALUES ('prj_00000000000000000000000004', 'org_00000000000000000000000004', 'probes');
`
