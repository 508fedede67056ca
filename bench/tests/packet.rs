//! The smallest run of the benchmark: nothing is said of times, but every packet is accounted and
//! the JSON has the shape that is promised.

use std::{fs, path::PathBuf, process::Command};

use serde_json::Value;

/// The object of the benchmark, which `cargo xtask test` builds first.
fn bench_object() -> PathBuf {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let object = target
        .parent()
        .expect("a directory in target/")
        .join("bpf/bpfel-unknown-none/bpf/flowprobe-bench-bpf");
    assert!(
        fs::exists(&object).is_ok_and(|there| there),
        "{}: build it with `cargo xtask test` or `cargo xtask bench packet --quick`",
        object.display()
    );
    object
}

fn bench(args: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_flowprobe-bench"))
        .arg("packet")
        .arg("--bench-object")
        .arg(bench_object())
        // Tests are no reason to make others wait.
        .args([
            "--nice",
            "0",
            "--cpu",
            "0",
            "--packets",
            "10000",
            "--rounds",
            "2",
        ])
        .args(args)
        .output()
        .expect("runs");
    (
        output.status.success(),
        String::from_utf8(output.stdout).expect("text"),
        String::from_utf8(output.stderr).expect("text"),
    )
}

fn json(args: &[&str]) -> Value {
    let (success, stdout, stderr) = bench(&[args, &["--json"]].concat());
    assert!(success, "{stderr}");
    serde_json::from_str(&stdout).expect("JSON")
}

const PROGRAMS: [&str; 5] = [
    "flowprobe",
    "flowprobe_sampled_100",
    "percpu_hash",
    "percpu_hash_same_clock",
    "lru_hash",
];

#[test]
fn all_programs_account_every_packet() {
    let report = json(&["--flows", "1,4096"]);
    assert_eq!(report["not_counted"], serde_json::json!([]), "{report:#}");
    for table in [&report, &report["median"]] {
        assert!(table["empty"].as_f64().is_some_and(|ns| ns > 0.0));
        for name in PROGRAMS {
            let cells = table["programs"][name].as_object().expect(name);
            assert_eq!(cells.len(), 2, "{name}");
            for flows in ["1", "4096"] {
                assert!(cells[flows].as_f64().is_some_and(|ns| ns > 0.0), "{name}");
            }
        }
    }
    assert_eq!(report["keys"]["percpu_hash"]["4096"], 4096);
    assert_eq!(report["max_flows"]["flowprobe"]["4096"], 65536);
}

#[test]
fn packets_of_every_kind_are_accounted() {
    for frame in ["ipv6", "vlan", "qinq", "mpls", "vxlan"] {
        let report = json(&["--frame", frame, "--flows", "1,4096"]);
        let counted = &report["programs"]["flowprobe"];
        assert!(counted["1"].is_number(), "{frame}: {report:#}");
        assert!(counted["4096"].is_number(), "{frame}: {report:#}");
    }
}

#[test]
fn a_program_that_loses_flows_does_not_count() {
    // An LRU map never refuses a flow: only its keys tell that it has forgotten some.
    let args = ["--flows", "4096", "--max-flows", "1024"];
    let report = json(&[&args[..], &["--programs", "percpu_hash,lru_hash"]].concat());
    for name in ["percpu_hash", "lru_hash"] {
        assert!(report["programs"][name]["4096"].is_null(), "{report:#}");
    }
    assert_eq!(report["not_counted"].as_array().map(Vec::len), Some(2));
}

#[test]
fn other_objects_are_measured_alike() {
    let object = bench_object();
    let object = object.to_str().expect("a path in UTF-8");
    let args = ["--prog", "percpu_hash", "--entries", "PERCPU_FLOWS=8192"];
    let report = json(&[&["--obj", object, "--flows", "4096"], &args[..]].concat());
    assert!(report["programs"]["percpu_hash"]["4096"].is_number());
    assert_eq!(report["keys"]["percpu_hash"]["4096"], 4096);
}

#[test]
fn a_program_of_another_kind_is_refused() {
    let object = bench_object();
    let object = object.to_str().expect("a path in UTF-8");
    let args = ["--obj", object, "--prog", "empty_xdp_frags", "--flows", "1"];
    let (success, _, stderr) = bench(&args);
    assert!(!success);
    assert!(stderr.contains("--type"), "{stderr}");
}
