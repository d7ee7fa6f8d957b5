//! With feature `spdk`: finds SPDK by pkg-config, links it whole, generates the bindings, and probes what differs between
//! its releases. Without: nothing.
//!
//! Differences are found in the generated bindings: a field or function that is there is there. Each is a `cfg` that
//! [`PROBES`] lists.

fn main() {
    #[cfg(feature = "spdk")]
    with_spdk::build();
}

#[cfg(feature = "spdk")]
mod with_spdk {
    use std::env;
    use std::path::{Path, PathBuf};

    /// The packages that SPDK installs, and `scripts/spdk` writes for the release that has none.
    const PACKAGES: [&str; 2] = ["spdk_nvme", "spdk_env_dpdk"];
    /// SPDK's own list of what it needs of the system; releases before 21.01 have none.
    const SYSTEM_PACKAGE: &str = "spdk_syslibs";

    /// Where `scripts/spdk` installs.
    const BUILT: &str = "../build/spdk/install/lib/pkgconfig";

    const HEADERS: &str = "#include <spdk/env.h>\n#include <spdk/env_dpdk.h>\n#include <spdk/log.h>\n#include <spdk/nvme.h>\n#include <spdk/uuid.h>\n\
        int rte_eal_init(int argc, char **argv);\n";

    const FUNCTIONS: &str = "rte_eal_init|spdk_env_dpdk_post_init|spdk_env_(init|opts_init)|spdk_zmalloc|spdk_free|\
        spdk_log_set_(print_)?level|\
        spdk_mem_(un)?register|spdk_pci_device_is_removed|spdk_nvme_(probe|detach)|\
        spdk_nvme_ctrlr_(get_data|get_ns|get_max_xfer_size|get_first_active_ns|get_next_active_ns|is_active_ns|\
        alloc_io_qpair|free_io_qpair|connect_io_qpair|reconnect_io_qpair|get_default_io_qpair_opts|get_pci_device|fail|is_failed|reset|\
        process_admin_completions|cmd_admin_raw|cmd_io_raw|cmd_abort|register_aer_callback|\
        register_timeout_callback)|\
        spdk_nvme_ns_(get_data|get_id|get_sector_size|get_extended_sector_size|get_num_sectors|is_active|get_uuid|\
        cmd_read|cmd_readv|cmd_write|cmd_writev|cmd_compare|cmd_comparev|cmd_flush|cmd_dataset_management|cmd_write_zeroes)|\
        spdk_nvme_qpair_(process_completions|get_fd)|\
        spdk_nvme_poll_group_(create|add|remove|destroy|process_completions)";

    const TYPES: &str =
        "spdk_nvme_(cmd|cpl|ctrlr_opts|io_qpair_opts|transport_id|dsm_range)|spdk_env_opts|spdk_uuid";

    /// What differs: the `cfg`, and how its presence shows in the bindings.
    const PROBES: [(&str, Probe); 6] = [
        ("spdk_env_no_huge", Probe::Field("spdk_env_opts", "no_huge")),
        ("spdk_env_opts_size", Probe::Field("spdk_env_opts", "opts_size")),
        ("spdk_disable_error_logging", Probe::Field("spdk_nvme_ctrlr_opts", "disable_error_logging")),
        ("spdk_qpair_fd", Probe::Function("spdk_nvme_qpair_get_fd")),
        ("spdk_poll_group_table", Probe::Argument("spdk_nvme_poll_group_create", "table")),
        (
            "spdk_admin_timeout",
            Probe::Argument("spdk_nvme_ctrlr_register_timeout_callback", "timeout_admin_us"),
        ),
    ];

    enum Probe {
        Field(&'static str, &'static str),
        Function(&'static str),
        Argument(&'static str, &'static str),
    }

    pub(crate) fn build() {
        for (name, _) in &PROBES {
            println!("cargo::rustc-check-cfg=cfg({name})");
        }
        let found = Found::probe();
        found.link();
        let bindings = found.bindings();
        for (name, probe) in &PROBES {
            if probe.holds(&bindings) {
                println!("cargo::rustc-cfg={name}");
            }
        }
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("spdk.rs");
        std::fs::write(&out, bindings).unwrap_or_else(|error| panic!("{}: {error}", out.display()));
    }

    impl Probe {
        fn holds(&self, bindings: &str) -> bool {
            match self {
                Self::Function(name) => bindings.contains(&format!("fn {name}(")),
                Self::Argument(function, argument) => {
                    let start = bindings.find(&format!("fn {function}("));
                    let arguments = start.and_then(|at| bindings[at..].split_once(';'));
                    arguments.is_some_and(|(arguments, _)| arguments.contains(&format!("{argument}:")))
                }
                Self::Field(structure, field) => {
                    let start = bindings.find(&format!("pub struct {structure} {{"));
                    let body = start.and_then(|at| bindings[at..].split_once("\n}"));
                    body.is_some_and(|(body, _)| body.contains(&format!("pub {field}:")))
                }
            }
        }
    }

    /// What pkg-config says.
    #[derive(Default)]
    struct Found {
        includes: Vec<PathBuf>,
        folders: Vec<PathBuf>,
        libraries: Vec<String>,
    }

    impl Found {
        /// Asks the program rather than a crate: DPDK names its archives as files (`-l:librte_eal.a`).
        fn probe() -> Self {
            let mut found = Self::default();
            found.add_or_built(&PACKAGES).unwrap_or_else(|error| {
                panic!(
                    "feature `spdk` needs SPDK, found by pkg-config: {error}\n\
                     run scripts/spdk to build Debian's; README.md says how to use your own"
                )
            });
            // Its absence is no fault.
            let _ = found.add(&[SYSTEM_PACKAGE], None);
            found
        }

        /// The packages that pkg-config finds, else those that `scripts/spdk` built.
        fn add_or_built(&mut self, packages: &[&str]) -> Result<(), String> {
            let built = Path::new(env!("CARGO_MANIFEST_DIR")).join(BUILT);
            println!("cargo::rerun-if-changed={}", built.display());
            self.add(packages, None).or_else(|error| match built.is_dir() {
                true => self.add(packages, Some(&built)),
                false => Err(error),
            })
        }

        fn add(&mut self, packages: &[&str], folder: Option<&Path>) -> Result<(), String> {
            for name in ["PKG_CONFIG", "PKG_CONFIG_PATH"] {
                println!("cargo::rerun-if-env-changed={name}");
            }
            let program = env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
            let mut command = std::process::Command::new(program);
            if let Some(folder) = folder {
                command.env("PKG_CONFIG_PATH", folder);
            }
            let output = command.args(["--static", "--cflags", "--libs"]).args(packages).output();
            let output = output.map_err(|error| format!("cannot run pkg-config: {error}"))?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
            }
            String::from_utf8_lossy(&output.stdout).split_whitespace().for_each(|word| self.take(word));
            Ok(())
        }

        fn take(&mut self, word: &str) {
            if let Some(folder) = word.strip_prefix("-I") {
                add_new(&mut self.includes, folder.into());
            } else if let Some(folder) = word.strip_prefix("-L") {
                add_new(&mut self.folders, folder.into());
            } else if let Some(file) = word.strip_prefix("-l:lib") {
                let name = file.split_once(".a").or(file.split_once(".so")).map_or(file, |(name, _)| name);
                add_new(&mut self.libraries, name.to_owned());
            } else if let Some(library) = word.strip_prefix("-l") {
                add_new(&mut self.libraries, library.to_owned());
            }
        }

        /// Archives of SPDK and DPDK are linked whole: their drivers register themselves in constructors that nothing
        /// refers to. Everything else is the system's.
        fn link(&self) {
            for folder in &self.folders {
                println!("cargo::rustc-link-search=native={}", folder.display());
            }
            for library in &self.libraries {
                let archive = self
                    .folders
                    .iter()
                    .map(|folder| folder.join(format!("lib{library}.a")))
                    .find(|path| path.is_file());
                let ours = library.starts_with("spdk_") || library.starts_with("rte_");
                match archive {
                    Some(archive) if ours => {
                        println!("cargo::rerun-if-changed={}", archive.display());
                        println!("cargo::rustc-link-lib=static:+whole-archive,-bundle={library}");
                    }
                    _ => println!("cargo::rustc-link-lib={library}"),
                }
            }
        }

        fn bindings(&self) -> String {
            let includes = self.includes.iter().map(|path: &PathBuf| format!("-I{}", Path::display(path)));
            bindgen::Builder::default()
                .header_contents("spdk.h", HEADERS)
                .clang_args(includes)
                .allowlist_function(FUNCTIONS)
                .allowlist_type(TYPES)
                // Read as the bytes that the NVMe specification lays out.
                .opaque_type("spdk_nvme_(ctrlr_data|ns_data|cmd|cpl|dsm_range|csts_register)|spdk_uuid")
                .default_enum_style(bindgen::EnumVariation::Consts)
                .prepend_enum_name(false)
                .generate_comments(false)
                .derive_debug(false)
                .derive_default(true)
                .layout_tests(true)
                .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()))
                .generate()
                .unwrap_or_else(|error| panic!("bindgen cannot read SPDK's headers: {error}"))
                .to_string()
        }
    }

    fn add_new<T: PartialEq>(to: &mut Vec<T>, item: T) {
        if !to.contains(&item) {
            to.push(item);
        }
    }
}
