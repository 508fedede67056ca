//! The page of `flowprobe experiment`, as a browser shows it.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, ensure};
use flowprobe_tests::{
    capture_file::{Order, Record, pcap},
    judges::Directory,
    packets::Ip,
    probe::binary,
};

type Result<T = ()> = anyhow::Result<T>;

/// Measures what has been laid out, and writes it into the page, where `--dump-dom` shows it. Only
/// the test's copy of the page has this script.
const MEASURE: &str = r##"<script>
const said = [];
addEventListener("error", e => said.push("error " + e.message));
addEventListener("load", () => {
  const plots = [...document.querySelectorAll("svg.plot")];
  let outside = 0, marks = 0, overlaps = 0;
  for (const plot of plots) {
    const view = plot.getBoundingClientRect();
    for (const part of plot.querySelectorAll("circle,polygon,polyline,line,text")) {
      const box = part.getBoundingClientRect();
      if (box.left < view.left - 1 || box.right > view.right + 1 ||
          box.top < view.top - 1 || box.bottom > view.bottom + 1) { outside++; said.push("outside " + plot.id + " " + part.textContent); }
    }
    marks += plot.querySelectorAll(".mark").length;
    const texts = [...plot.querySelectorAll("text")].map(t => t.getBoundingClientRect());
    for (let i = 0; i < texts.length; i++) for (let j = 0; j < i; j++) {
      const a = texts[i], b = texts[j];
      if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3) { overlaps++; said.push("overlap in " + plot.id); }
    }
  }
  const out = document.createElement("pre");
  out.id = "measured";
  out.textContent = [
    "plots=" + plots.length, "outside=" + outside, "marks=" + marks, "overlaps=" + overlaps,
    "rows=" + document.querySelectorAll("#results tbody tr").length,
    "cells=" + document.querySelectorAll("#results tbody tr:first-child td").length,
    "width=" + (document.documentElement.scrollWidth <= innerWidth ? "fits" : "too wide"),
    "requests=" + performance.getEntriesByType("resource").length,
    ...said].join("\n");
  document.body.append(out);
});
</script>"##;

/// Opens a page, and gives what is in it once all is laid out.
fn opened(page: &Path, profile: &Path, width: u32) -> Result<String> {
    let mut chromium = Command::new("chromium");
    chromium.args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]);
    // Whatever it would ask of the network fails.
    chromium.args(["--proxy-server=127.0.0.1:9", "--virtual-time-budget=2000"]);
    chromium.arg(format!("--user-data-dir={}", profile.display()));
    chromium.arg(format!("--window-size={width},2000"));
    chromium.arg(format!("file://{}", page.display()));
    let output = chromium.output();
    let output = output.context("chromium is missing: run `cargo xtask setup`")?;
    let log = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "chromium: {}\n{log}",
        output.status
    );
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn a_browser_shows_all_of_the_page() -> Result {
    let directory = Directory::new(&format!("flowprobe-page-{}", std::process::id()))?;
    let place = |name: &str| directory.path().join(name);
    let record = |i: u64| {
        let flow = (i * i % 97).min(i % 20);
        let ip = Ip::new("192.0.2.1", "198.51.100.1");
        let packet = ip.udp(1000 + flow as u16, 53, 50 + (i * 7 % 900) as usize);
        Record::whole(1_700_000_000_000_000_000 + i * 1_000_000, &packet.frame)
    };
    let records: Vec<_> = (0..5000).map(record).collect();
    fs::write(place("day.pcap"), pcap(Order::Little, true, 1, &records))?;
    let mut command = Command::new(binary()?);
    command.args([
        "experiment",
        "--rates",
        "10,100,1000",
        "--runs",
        "5",
        "--seed",
        "1",
    ]);
    command.args(["--methods", "count,random,nofn,time,hash,flow", "--pcap"]);
    command
        .arg(place("day.pcap"))
        .arg("--out")
        .arg(place("out"));
    let output = command.output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = fs::read_to_string(place("out").join("index.html"))?;
    // Nothing but the name of SVG's language looks like an address.
    let text = text.replace("http://www.w3.org/2000/svg", "");
    assert!(!text.contains("http:") && !text.contains("https:"));
    let copy = place("measured.html");
    fs::write(&copy, text.replace("<head>", &format!("<head>{MEASURE}")))?;
    let plots = text.matches("<svg").count();
    assert_eq!(plots, 9 + 6);
    for width in [1280, 500, 400] {
        let page = opened(&copy, &place("profile"), width)?;
        let measured = page
            .split("id=\"measured\">")
            .nth(1)
            .context("no script ran")?;
        let measured = measured.split("</pre>").next().unwrap_or_default();
        for fact in [
            &format!("plots={plots}"),
            "outside=0",
            "overlaps=0",
            "rows=18",
            "cells=12",
            "width=fits",
            "requests=0",
        ] {
            assert!(
                measured.lines().any(|line| line == fact),
                "{fact} at {width}:\n{measured}"
            );
        }
        assert!(!measured.contains("error "), "{measured}");
        // Nine plots of methods × rates; one of rates × sizes for each method, where all flows are
        // of one class. Each has a legend.
        let marks = 9 * (6 * 3 + 6) + 6 * (3 + 3);
        let fact = format!("marks={marks}");
        assert!(measured.lines().any(|line| line == fact), "{measured}");
        assert!(page.contains("The highest n that keeps the error of the octets"));
    }
    Ok(())
}
