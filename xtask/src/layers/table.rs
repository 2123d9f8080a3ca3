//! Which crate may name which: the architecture's direction of imports as data.

/// Direct workspace dependencies (normal and build) that each crate may have. A crate that is not
/// listed here fails the check, so that a new crate gets its place by decision.
pub const ALLOWED_EDGES: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("planted", &[]),
    ("trust", &["wire", "planted"]),
    ("policy", &["wire", "trust", "planted"]),
    ("state", &["wire", "trust", "planted"]),
    ("net", &["wire"]),
    ("portmap", &[]),
    ("session", &["wire", "trust", "planted"]),
    ("tunnel", &["wire", "planted"]),
    ("flow", &["wire"]),
    ("dns", &["trust", "policy"]),
    ("machine", &["policy", "planted"]),
    ("agent", &["wire", "trust", "policy", "session", "planted"]),
    ("pop", &["wire", "trust", "policy", "state", "session", "net", "planted"]),
    (
        "connector",
        &[
            "wire", "trust", "policy", "state", "session", "agent", "tunnel", "flow", "net", "portmap",
            "machine", "planted",
        ],
    ),
    (
        "client",
        &[
            "wire", "trust", "policy", "state", "session", "agent", "tunnel", "flow", "net", "portmap",
            "dns", "machine", "planted",
        ],
    ),
    ("load", &["wire", "trust", "state", "session", "agent", "tunnel", "flow", "client", "net"]),
    ("enrol", &["wire", "trust", "policy", "state"]),
    ("store", &["wire", "trust", "policy", "planted"]),
    ("controller", &["wire", "trust", "policy", "state", "session", "net", "store", "planted"]),
    (
        "tidegate",
        &[
            "wire",
            "trust",
            "policy",
            "state",
            "session",
            "agent",
            "tunnel",
            "flow",
            "net",
            "portmap",
            "pop",
            "connector",
            "client",
            "load",
            "enrol",
            "store",
            "controller",
            "machine",
            "planted",
            // Drills start a database server from the installed programs.
            "pgscratch",
        ],
    ),
    ("pgscratch", &[]),
    // What follows is never shipped.
    (
        "fuzz-targets",
        &[
            "wire",
            "trust",
            "policy",
            "state",
            "session",
            "agent",
            "tunnel",
            "flow",
            "net",
            "pop",
            "connector",
            "client",
            "portmap",
            "controller",
            "dns",
            "enrol",
            "machine",
            "planted",
            "store",
        ],
    ),
    (
        "bench-idle",
        &["wire", "trust", "policy", "state", "session", "agent", "tunnel", "flow", "net", "client", "enrol"],
    ),
    ("load-rig", &["wire", "trust", "state", "session", "pop"]),
    (
        "bench",
        &["wire", "trust", "state", "agent", "client", "enrol", "pgscratch", "pop", "portmap", "store"],
    ),
    (
        "sim",
        &[
            "wire",
            "trust",
            "policy",
            "session",
            "agent",
            "tunnel",
            "flow",
            "pop",
            "connector",
            "client",
            "planted",
        ],
    ),
    ("hostile-session", &["session", "trust"]),
    ("hostile-pop", &["wire", "trust", "policy", "state", "hostile-session", "net", "planted"]),
    (
        "hostile",
        &[
            "wire",
            "trust",
            "policy",
            "state",
            "session",
            "agent",
            "tunnel",
            "flow",
            "connector",
            "client",
            "planted",
            "hostile-pop",
            "hostile-session",
        ],
    ),
    ("browser", &["pgscratch"]),
    ("xtask", &[]),
];

/// Crates of the data plane, and those it is made of: they may reach no database driver and no
/// HTTP, at whatever distance.
pub const DATA_PLANE: &[&str] = &[
    "wire",
    "trust",
    "policy",
    "state",
    "session",
    "agent",
    "tunnel",
    "flow",
    "net",
    "portmap",
    "dns",
    "machine",
    "pop",
    "connector",
    "client",
    "load",
];

/// What the data plane may not reach through normal dependencies. A trailing `*` is a prefix.
pub const DATA_PLANE_FORBIDDEN: &[&str] = &[
    "sqlx*",
    "libsqlite3-sys",
    "rusqlite",
    "postgres*",
    "tokio-postgres",
    "diesel*",
    "sea-orm*",
    "redis",
    "fred",
    "memcache*",
    "hyper*",
    "axum*",
    "reqwest*",
    "ureq*",
    "isahc",
    "curl",
    "curl-sys",
    "attohttpc",
    "h2",
    "h3",
    "tonic*",
    "actix*",
    "warp",
    "store",
    "controller",
    "enrol",
];

/// What nothing in the workspace may reach through normal or build dependencies:
/// aws-lc-rs is the one crypto provider.
pub const FORBIDDEN_EVERYWHERE: &[&str] = &["ring", "openssl", "openssl-sys", "native-tls", "boring*"];

/// Crates without I/O, clock or randomness of their own.
pub const SANS_IO: &[&str] = &["wire", "trust", "policy", "session", "agent", "tunnel", "flow", "dns"];

/// What a crate without I/O may not name in its own manifest.
pub const SANS_IO_FORBIDDEN_DIRECT: &[&str] =
    &["tokio", "tokio-*", "mio", "quinn", "quinn-udp", "socket2", "async-std", "smol", "rand"];

/// What a crate without I/O may not name in its sources, and why.
pub const SANS_IO_FORBIDDEN_WORDS: &[(&str, &str)] = &[
    ("tokio", "cores know no runtime"),
    ("UdpSocket", "cores own no socket"),
    ("TcpStream", "cores own no socket"),
    ("TcpListener", "cores own no socket"),
    ("UnixStream", "cores own no socket"),
    ("std::thread", "cores own no thread"),
    ("thread::spawn", "cores own no thread"),
    ("Instant::now", "cores get `now: Instant` injected"),
    ("SystemTime::now", "cores get `wall: UnixMs` injected"),
    ("thread_rng", "cores get a seed injected"),
];

/// Whether `name` is matched by one of `patterns` (exact, or a prefix ending in `*`).
pub fn matches(name: &str, patterns: &[&str]) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == *pattern,
    })
}
