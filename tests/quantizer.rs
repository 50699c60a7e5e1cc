//! The quantizer against scikit-learn (`dev/golden_quantizer.py`).
#![allow(missing_docs, clippy::unwrap_used)]

use serde::Deserialize;
use trafficgpt::packet::Packet;
use trafficgpt::quantizer::{Codebook, Quantizer, Scaler};

#[derive(Deserialize)]
struct Golden {
    sizes: Vec<i32>,
    ipt_us: Vec<f32>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    scaler: Scaler,
    centroids: Vec<[f32; 2]>,
    tokens: Vec<u32>,
}

#[test]
fn tokens_equal_scikit_learns_through_both_scalers() {
    let golden: Golden = serde_json::from_str(include_str!("golden/quantizer.json")).unwrap();
    let packets: Vec<Packet> =
        golden.sizes.iter().zip(&golden.ipt_us).map(|(&size, &ipt_us)| Packet { size, ipt_us }).collect();
    assert_eq!(golden.cases.len(), 2);
    for case in golden.cases {
        let quantizer = Quantizer::new(case.scaler, Codebook::new(case.centroids).unwrap());
        let mut tokens = vec![0; packets.len()];
        quantizer.encode(&packets, &mut tokens).unwrap();
        assert_eq!(tokens, case.tokens, "{:?}", case.scaler);
    }
}

#[test]
fn encoding_a_decoded_token_gives_it_back() {
    let golden: Golden = serde_json::from_str(include_str!("golden/quantizer.json")).unwrap();
    let case = &golden.cases[0];
    let quantizer = Quantizer::new(case.scaler, Codebook::new(case.centroids.clone()).unwrap());
    let tokens: Vec<u32> = (0..quantizer.n_tokens() as u32).collect();
    let mut packets = vec![Packet { size: 0, ipt_us: 0.0 }; tokens.len()];
    quantizer.decode(&tokens, &mut packets).unwrap();
    let mut back = vec![0; tokens.len()];
    quantizer.encode(&packets, &mut back).unwrap();
    assert_eq!(back, tokens);
}

#[test]
fn a_refused_packet_or_token_leaves_the_output_alone() {
    let quantizer = Quantizer::new(Scaler::Log1pUs, Codebook::new(vec![[0.0, 0.0], [1.0, 1.0]]).unwrap());
    let packets = [Packet { size: 40, ipt_us: 0.0 }, Packet { size: 40, ipt_us: f32::INFINITY }];
    let mut tokens = [7, 7];
    let error = quantizer.encode(&packets, &mut tokens).unwrap_err();
    assert!(error.message().contains("packet 1"), "{error}");
    assert_eq!(tokens, [7, 7]);
    let mut out = [packets[0]; 2];
    let error = quantizer.decode(&[0, 2], &mut out).unwrap_err();
    assert!(error.message().contains("0..2"), "{error}");
    assert_eq!(out, [packets[0]; 2]);
    assert!(quantizer.encode(&packets[..1], &mut []).is_err());
}
