//! Judging a bundle by labelled flows, through the library's own [`Classifier`], as its users run it, beside methods that
//! know nothing of networks.
//!
//! Flows whose label the model knows give the figures, its own and those of [`crate::train::baselines`], which are fitted to the
//! split `train` of the same table. Flows of other labels tell how well it sees that they are none of those it knows.

mod method;
mod openset;
pub mod page;
mod report;
mod sample;

pub use method::{LabelReport, MethodReport, Rejection};
pub use openset::{Detector, OpenSet};
pub use report::{Early, EarlyMethod, Report};

use crate::classifier::Classifier;
use crate::error::Result;
use crate::generator::Generator;
use crate::packet::{Packet, Rows};
use crate::train::baselines::{Baseline, Fitted, Lessons, PACKETS};
use crate::train::interrupt::Interrupt;
use crate::train::progress::Progress;
use crate::train::table::{Split, Table};
use crate::worker::Worker;
use method::Answers;
use openset::best_probabilities;
use rayon::prelude::*;
use sample::Sample;
use std::time::Instant;

/// Flows that one thread classifies at a time.
const FLOWS_PER_TASK: usize = 256;

/// Packets after which the answer is judged, and at last after all.
const EARLY: [usize; 6] = [1, 2, 4, 8, 16, 32];

/// How to judge.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The split that is judged; none: all flows.
    pub split: Option<Split>,
    /// What to compare with.
    pub baselines: Vec<Baseline>,
    /// Whether groups may have flows in several splits.
    pub allow_shared_groups: bool,
    /// Seed of the baselines' draws.
    pub seed: u64,
}

/// Judges `classifier` by the flows of `table`; `generator`, of the same bundle, says how likely flows of other labels are.
pub fn evaluate(
    classifier: &Classifier,
    generator: Option<&Generator>,
    table: &Table,
    settings: &Settings,
    progress: &mut Progress,
    interrupt: &Interrupt,
) -> Result<Report> {
    let sample = Sample::new(classifier.labels(), table, settings)?;
    let baselines = if sample.train.is_empty() { &[][..] } else { &settings.baselines };
    let stages = 1 + baselines.len() + EARLY.len() + usize::from(!sample.strangers.is_empty());
    progress.begin("evaluate", Some(stages as u64));
    let judge = Judge { classifier, generator, sample: &sample, settings, interrupt };

    progress.note("model");
    let began = Instant::now();
    let answers = judge.model(&sample.judged)?;
    let mut model = MethodReport::new("model", model_is(classifier), &answers, &sample.truths, classifier.labels())?;
    model.judge_seconds = began.elapsed().as_secs_f64();
    progress.advance(1);

    let (mut reports, mut fitted) = (Vec::new(), Vec::new());
    for &baseline in baselines {
        progress.note(baseline.name());
        let (report, method) = judge.baseline(baseline)?;
        reports.push(report);
        fitted.push((baseline, method));
        progress.advance(1);
    }
    let early = judge.early(&model, &reports, progress)?;
    let open_set = match sample.strangers.is_empty() {
        true => None,
        false => {
            progress.note("open set");
            let open_set = judge.open_set(&answers, &fitted)?;
            progress.advance(1);
            Some(open_set)
        }
    };
    progress.end();
    Ok(Report {
        split: settings.split.map(Split::name),
        model,
        baselines: reports,
        early,
        open_set,
        notes: sample.notes,
    })
}

fn model_is(classifier: &Classifier) -> String {
    format!("the bundle's classifier on the engine {}, probabilities calibrated as it ships", classifier.engine())
}

/// What the parts of a judgement share.
struct Judge<'a> {
    classifier: &'a Classifier,
    generator: Option<&'a Generator>,
    sample: &'a Sample<'a>,
    settings: &'a Settings,
    interrupt: &'a Interrupt,
}

impl Judge<'_> {
    /// The model's answers for `flows`.
    fn model(&self, flows: &[&[Packet]]) -> Result<Answers> {
        let n = self.classifier.labels().len();
        let parts: Vec<(Vec<u32>, Vec<f32>)> = flows
            .par_chunks(FLOWS_PER_TASK)
            .map_init(Worker::new, |worker, flows| {
                self.interrupt.check()?;
                let rows: Rows<Packet> = flows.iter().map(|flow| flow.iter().copied()).collect();
                let (mut verdicts, mut probabilities) = (vec![0; flows.len()], vec![0.0; flows.len() * n]);
                self.classifier.classify(worker, rows.as_ragged(), &mut verdicts, Some(&mut probabilities))?;
                Ok((verdicts, probabilities))
            })
            .collect::<Result<_>>()?;
        let mut out = Answers::default();
        for (verdicts, probabilities) in parts {
            out.verdicts.extend(verdicts);
            out.probabilities.extend(probabilities);
        }
        Ok(out)
    }

    /// Fits `baseline` and judges it.
    fn baseline(&self, baseline: Baseline) -> Result<(MethodReport, Fitted)> {
        let (sample, labels) = (self.sample, self.classifier.labels());
        let began = Instant::now();
        let fitted = baseline.fit(self.lessons(), self.settings.seed, self.interrupt)?;
        let fit_seconds = began.elapsed().as_secs_f64();
        let began = Instant::now();
        let answers = Answers::best(fitted.probabilities(&sample.judged), labels.len());
        let judge_seconds = began.elapsed().as_secs_f64();
        let report = MethodReport::new(baseline.name(), baseline.what(), &answers, &sample.truths, labels)?;
        Ok((MethodReport { fit_seconds: Some(fit_seconds), judge_seconds, ..report }, fitted))
    }

    fn lessons(&self) -> Lessons<'_> {
        let n_labels = self.classifier.labels().len();
        Lessons { flows: &self.sample.train, labels: &self.sample.train_labels, n_labels }
    }

    /// How good the answers are early: the model's, and, where there is one, those of a forest on sizes that is fitted anew to
    /// training flows cut as short.
    fn early(&self, model: &MethodReport, baselines: &[MethodReport], progress: &mut Progress) -> Result<Early> {
        let forest = baselines.iter().find(|report| report.name == Baseline::Forest.name());
        let mut methods: Vec<EarlyMethod> =
            [Some(model), forest].into_iter().flatten().map(|report| EarlyMethod::new(&report.name)).collect();
        let labels = self.classifier.labels();
        for packets in EARLY {
            progress.note(format!("after {packets} packets"));
            self.interrupt.check()?;
            let cut = |flow: &&'_ [Packet]| -> usize { flow.len().min(packets) };
            let flows: Vec<&[Packet]> = self.sample.judged.iter().map(|flow| &flow[..cut(flow)]).collect();
            let mut answers = vec![self.model(&flows)?];
            if forest.is_some() {
                let fitted = Baseline::Forest.fit_early(self.lessons(), packets, self.settings.seed, self.interrupt)?;
                answers.push(Answers::best(fitted.probabilities(&flows), labels.len()));
            }
            for (method, answers) in methods.iter_mut().zip(answers) {
                method.push(answers.confusion(&self.sample.truths, labels.len())?.scores());
            }
            progress.advance(1);
        }
        for (method, report) in methods.iter_mut().zip([Some(model), forest].into_iter().flatten()) {
            method.push(report.scores);
        }
        Ok(Early { packets: EARLY.into_iter().map(Some).chain([None]).collect(), forest_packets: PACKETS, methods })
    }

    /// How well the model, the fitted baselines and the language model tell flows of other labels.
    fn open_set(&self, answers: &Answers, fitted: &[(Baseline, Fitted)]) -> Result<OpenSet> {
        let n = self.classifier.labels().len();
        let strangers = self.model(&self.sample.strangers)?;
        let (known, strange) = (best_probabilities(answers, n), best_probabilities(&strangers, n));
        let mut out = OpenSet::new(&self.sample.strange_labels, &known, &strange);
        for (baseline, fitted) in fitted.iter().filter(|(baseline, _)| *baseline != Baseline::Majority) {
            let of = |flows: &[&[Packet]]| best_probabilities(&Answers::best(fitted.probabilities(flows), n), n);
            let (known, strange) = (of(&self.sample.judged), of(&self.sample.strangers));
            out.add(&format!("{}: best probability", baseline.name()), &known, &strange);
        }
        if let Some(generator) = self.generator {
            let (known, strange) = (
                self.likelihoods(generator, &self.sample.judged)?,
                self.likelihoods(generator, &self.sample.strangers)?,
            );
            out.add("model: log-likelihood of a packet", &known, &strange);
        }
        Ok(out)
    }

    /// The language model's log-likelihood of one packet, on average over each flow.
    fn likelihoods(&self, generator: &Generator, flows: &[&[Packet]]) -> Result<Vec<f64>> {
        let parts: Vec<Vec<f32>> = flows
            .par_chunks(FLOWS_PER_TASK)
            .map_init(Worker::new, |worker, flows| {
                self.interrupt.check()?;
                let rows: Rows<Packet> = flows.iter().map(|flow| flow.iter().copied()).collect();
                let mut nll = vec![0.0; flows.len()];
                generator.score(worker, None, rows.as_ragged(), &mut nll)?;
                Ok(nll)
            })
            .collect::<Result<_>>()?;
        Ok(parts.into_iter().flatten().map(|nll| -f64::from(nll)).collect())
    }
}
