//! Every input of every corpus runs through its target, so that a crash found once stays fixed.

use std::fs;
use std::path::Path;

/// Inputs of the folder `corpus/<name>`, sorted by name.
fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut inputs: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("the folder can be listed").path();
            (path.display().to_string(), fs::read(&path).expect("the input can be read"))
        })
        .collect();
    inputs.sort();
    inputs
}

fn replay(name: &str, target: fn(&[u8])) {
    let inputs = corpus(name);
    assert!(inputs.len() >= 8, "the corpus of {name} has only {} inputs", inputs.len());
    for (file, bytes) in inputs {
        println!("{file}");
        target(&bytes);
    }
}

#[test]
fn the_corpus_of_every_target_is_replayed() {
    for (name, target) in pollux_fuzz::TARGETS {
        replay(name, *target);
    }
}

#[test]
fn every_target_has_an_executable_and_a_corpus() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, _) in pollux_fuzz::TARGETS {
        assert!(here.join("fuzz_targets").join(format!("{name}.rs")).is_file(), "{name}");
        assert!(here.join("corpus").join(name).is_dir(), "{name}");
    }
}
