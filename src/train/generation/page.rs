//! The report as one HTML page that needs nothing else: tables, and pictures inline.

use super::features::{Direction, Quantity};
use super::judge::Pictures;
use super::report::{Report, SourceReport};
use crate::error::Result;
use crate::train::page::{self, END_TABLE, escaped, figure};
use crate::train::plot;
use std::fmt::Write as _;

/// The page of a report under `title`.
pub fn page(title: &str, report: &Report, pictures: &Pictures) -> Result<String> {
    let mut out = page::begin(title);
    introduction(&mut out, report);
    summary(&mut out, report);
    distances(&mut out, report)?;
    distributions(&mut out, pictures)?;
    autocorrelations(&mut out, report)?;
    classes(&mut out, report);
    out.push_str(page::END);
    Ok(out)
}

fn introduction(out: &mut String, report: &Report) {
    let flows: usize = report.flows.iter().sum();
    let _ = write!(
        out,
        "<p>{} classes; {flows} real flows of split <b>{}</b>, and as many flows of every generator, class by class. \
         A flow counts up to its first {} packets.</p>\n<ul>\n",
        report.classes.len(),
        report.split,
        report.max_packets
    );
    for source in &report.sources {
        let _ = writeln!(out, "<li><b>{}</b>: {}</li>", escaped(&source.name), escaped(&source.what));
    }
    out.push_str("</ul>\n");
    for note in &report.notes {
        page::remark(out, note);
    }
}

/// A table row: its name and one figure per generator; the best is set in bold by `rank`, the smaller the better.
fn row(
    out: &mut String,
    name: &str,
    report: &Report,
    of: &dyn Fn(&SourceReport) -> Option<f64>,
    rank: Option<&dyn Fn(f64) -> f64>,
) {
    // What resamples real flows is the ceiling, not a competitor.
    let competes = |source: &&SourceReport| source.name != "resampled";
    let ranks = report.sources.iter().filter(competes).filter_map(|s| of(s).zip(rank).map(|(v, rank)| rank(v)));
    let best = ranks.fold(f64::INFINITY, f64::min);
    let cells = report.sources.iter().map(|source| {
        let value = of(source);
        let is_best = competes(&source) && value.zip(rank).is_some_and(|(v, rank)| rank(v) <= best);
        (figure(value), is_best)
    });
    page::row(out, name, cells);
}

fn head(out: &mut String, first: &str, report: &Report) {
    page::begin_table(out, first, report.sources.iter().map(|source| source.name.as_str()));
}

fn summary(out: &mut String, report: &Report) {
    out.push_str("<h2>At a glance</h2>\n");
    head(out, "mean over classes", report);
    let (small, large, half) = (|v: f64| v, |v: f64| -v, |v: f64| (v - 0.5).abs());
    row(out, "Kolmogorov-Smirnov distance, six quantities", report, &SourceReport::mean_ks, Some(&small));
    row(out, "discriminator AUC (0.5: cannot tell)", report, &|s| s.auc, Some(&half));
    row(out, "train on it, test on real: macro-F1", report, &|s| s.f1, Some(&large));
    row(out, "the same over train on real", report, &|s| s.f1_share, Some(&large));
    row(out, "autocorrelation of sizes: mean gap", report, &|s| s.autocorrelation_sizes.gap, Some(&small));
    row(out, "autocorrelation of times: mean gap", report, &|s| s.autocorrelation_times.gap, Some(&small));
    row(out, "share that copies a training flow", report, &|s| Some(s.copies), None);
    row(out, "the same beyond unseen flows", report, &|s| Some(s.copies_beyond_unseen), None);
    let _ = write!(
        out,
        "</table></div>\n<p class=\"small\">A forest of 100 trees on {} real training flows reaches macro-F1 {} on the \
         real flows compared with. Of these flows, which no generator has seen, {:.1} % are token by token a training \
         flow. The discriminator is such a forest too, fitted to half of the real and generated flows of a class and \
         judged by the other half, both ways; it sees of each flow, for both directions and each alone, packets, bytes, \
         duration, throughput, mean and deviation of sizes and of times, and size and time of each of the first 20 \
         packets. Bold: the best but for resampling, which is the ceiling.</p>\n",
        report.flows.iter().sum::<usize>(),
        figure(report.f1_real),
        100.0 * report.copies_unseen
    );
}

fn distances(out: &mut String, report: &Report) -> Result<()> {
    out.push_str("<h2>Distances to real flows</h2>\n");
    let names = Quantity::ALL.map(Quantity::name);
    for direction in Direction::ALL {
        let of = |s: &SourceReport| s.features.iter().filter(|f| f.direction == direction).map(|f| f.ks).collect();
        let series: Vec<(&str, Vec<Option<f64>>)> = report.sources.iter().map(|s| (s.name.as_str(), of(s))).collect();
        let _ = writeln!(out, "<h3>Kolmogorov-Smirnov, {}</h3>", direction.name());
        out.push_str(&plot::bars(&names, "distance", &series)?);
    }
    let small = |v: f64| v;
    for (title, of) in [
        ("Kolmogorov-Smirnov", (|f| f.ks) as fn(&super::Feature) -> Option<f64>),
        ("Kolmogorov-Smirnov over the Markov chain's", |f| f.ks_beside_chain),
        ("Jensen-Shannon (base 2)", |f| f.jensen_shannon),
        ("Wasserstein, order 1", |f| f.wasserstein),
    ] {
        let _ = writeln!(out, "<h3>{title}</h3>");
        head(out, "quantity and direction", report);
        for i in 0..report.sources.first().map_or(0, |s| s.features.len()) {
            let feature = report.sources[0].features[i];
            let unit = if title.starts_with('W') { format!(" [{}]", feature.quantity.unit()) } else { String::new() };
            let name = format!("{}, {}{unit}", feature.quantity.name(), feature.direction.name());
            row(out, &name, report, &|s| of(&s.features[i]), Some(&small));
        }
        out.push_str(END_TABLE);
    }
    Ok(())
}

fn distributions(out: &mut String, pictures: &Pictures) -> Result<()> {
    out.push_str(
        "<h2>Distributions</h2>\n<p class=\"small\">Real flows filled, generators as lines; all classes.</p>\n",
    );
    out.push_str("<div class=\"pictures\">\n");
    for quantity in Quantity::ALL {
        for direction in Direction::ALL {
            let title = format!("{}, {}", quantity.name(), direction.name());
            let unit = match quantity.unit() {
                "decades" => "logarithm to base 10",
                unit => unit,
            };
            let series: Vec<(&str, &[f64])> = pictures
                .sources
                .iter()
                .map(|(name, values)| (name.as_str(), values.get(quantity, direction)))
                .collect();
            out.push_str(&plot::densities(&title, unit, pictures.real.get(quantity, direction), &series)?);
        }
    }
    out.push_str("</div>\n");
    Ok(())
}

fn autocorrelations(out: &mut String, report: &Report) -> Result<()> {
    out.push_str(
        "<h2>Autocorrelation</h2>\n<p class=\"small\">Of a packet with later ones of its flow; dots: real.</p>\n",
    );
    out.push_str("<div class=\"pictures\">\n");
    for (title, of) in [
        ("signed sizes", (|s| &s.autocorrelation_sizes) as fn(&SourceReport) -> &super::Autocorrelation),
        ("logarithms of times", |s| &s.autocorrelation_times),
    ] {
        let real = report.sources.first().map_or(&[][..], |s| &of(s).real);
        let series: Vec<(&str, &[Option<f64>])> =
            report.sources.iter().map(|s| (s.name.as_str(), &of(s).generated[..])).collect();
        out.push_str(&plot::lags(title, real, &series)?);
    }
    out.push_str("</div>\n");
    Ok(())
}

fn classes(out: &mut String, report: &Report) {
    let titles = ["KS of sizes, both directions", "KS of times, both directions", "discriminator AUC", "copies"];
    out.push_str("<h2>Class by class</h2>\n");
    for (which, title) in titles.into_iter().enumerate() {
        let _ = writeln!(out, "<h3>{title}</h3>");
        head(out, "class (flows)", report);
        for (i, (name, flows)) in report.classes.iter().zip(&report.flows).enumerate() {
            let of = |s: &SourceReport| {
                let class = &s.classes[i];
                let ks = |quantity| {
                    class.features.iter().find(|f| f.quantity == quantity && f.direction == Direction::Both)?.ks
                };
                match which {
                    0 => ks(Quantity::Size),
                    1 => ks(Quantity::Time),
                    2 => class.auc,
                    _ => Some(class.copies),
                }
            };
            row(out, &format!("{name} ({flows})"), report, &of, None);
        }
        out.push_str(END_TABLE);
    }
}
