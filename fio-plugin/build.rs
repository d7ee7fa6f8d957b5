//! Generates the structures of fio's engine ABI from fio's own headers.
//!
//! The headers are those in `$POLLUX_FIO_SOURCE`, or the ones that `scripts/fio-headers` fetched for this machine's release.
//! Without any the crate is its safe parts only: it builds and is tested everywhere, and fio finds no engine in it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// Everything of fio's that the engine names; what these refer to follows by itself.
const TYPES: &str = "ioengine_ops|thread_data|io_u|fio_file|fio_option|fio_ddir|fio_q_status|fio_opt_type|fio_filetype|fio_file_flags|\
     fio_ioengine_flags|opt_category|opt_category_group";
const CONSTANTS: &str = "FIO_IOOPS_VERSION";

fn main() {
    println!("cargo::rustc-check-cfg=cfg(fio_headers)");
    println!("cargo::rerun-if-env-changed=POLLUX_FIO_SOURCE");
    // fio opens the engine once per job and closes it after the last; its code stays, so that traces can name it.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    let Some(source) = source() else { return };
    println!("cargo::rerun-if-changed={}", source.join("config-host.h").display());
    println!("cargo::rustc-cfg=fio_headers");
    println!("cargo::rustc-env=POLLUX_FIO_VERSION={}", version(&source));
    generate(&source);
}

/// Where fio's configured source is.
fn source() -> Option<PathBuf> {
    if let Some(given) = env::var_os("POLLUX_FIO_SOURCE") {
        let given = PathBuf::from(given);
        let configured = given.join("config-host.h").is_file();
        assert!(
            configured,
            "POLLUX_FIO_SOURCE={} holds no configured source of fio (config-host.h)",
            given.display()
        );
        return Some(given);
    }
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/fio/headers");
    println!("cargo::rerun-if-changed={}", fetched.join("config-host.h").display());
    if fetched.join("config-host.h").is_file() {
        return fs::canonicalize(fetched).ok();
    }
    println!("cargo::warning=fio's headers are not here: run scripts/fio-headers to build the engine itself");
    None
}

/// What the fio of these headers calls itself, as in "fio-3.33".
fn version(source: &Path) -> String {
    let file = source.join("FIO-VERSION-FILE");
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let version = text.trim().strip_prefix("FIO_VERSION = ");
    version.unwrap_or_else(|| panic!("{}: no FIO_VERSION in it", file.display())).to_owned()
}

fn generate(source: &Path) {
    let folder = source.display();
    let bindings = bindgen::Builder::default()
        .header_contents("engine.h", "#include \"fio.h\"\n#include \"optgroup.h\"\n")
        .clang_args([format!("-I{folder}"), "-include".to_owned(), format!("{folder}/config-host.h")])
        .clang_args([
            "-std=gnu99",
            "-D_GNU_SOURCE",
            "-D_LARGEFILE_SOURCE",
            "-D_FILE_OFFSET_BITS=64",
            "-DFIO_INTERNAL",
        ])
        .allowlist_type(TYPES)
        .allowlist_var(CONSTANTS)
        // Its members are aligned by attributes; only its size matters here.
        .opaque_type("thread_stat")
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .generate_comments(false)
        .derive_debug(false)
        .layout_tests(true)
        .generate()
        .unwrap_or_else(|error| panic!("bindgen cannot read the headers in {folder}: {error}"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("fio.rs");
    bindings.write_to_file(&out).unwrap_or_else(|error| panic!("{}: {error}", out.display()));
}
