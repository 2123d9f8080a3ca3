//! A new migration is compiled in although no Rust file changed.

fn main() {
    #![expect(clippy::print_stdout, reason = "how a build script speaks to cargo")]
    println!("cargo:rerun-if-changed=migrations");
}
