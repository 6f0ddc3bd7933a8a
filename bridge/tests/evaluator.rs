//! Best-first search on a neural model, against enumeration of all its responses.

use candle_core::{DType, Device, Tensor};
use rand::Rng;
use rto::numerics::log_sum_exp;
use rto::search::best_first::{BestFirst, best_first};
use rto::search::evaluator::{CallbackEvaluator, EvaluatorOracle, LogProbModel};
use rto::search::oracle::CountingOracle;
use rto::seed::SeedTree;
use rto::{Error, Token};
use rto_bridge::evaluator::CandleModel;

const A: usize = 5;
const H: usize = 6;
const WIDTH: usize = 16;

/// Embeddings of the last two tokens, one hidden layer, a head; weights from our own streams.
struct TinyModel {
    embedding: Tensor,
    hidden: Tensor,
    head: Tensor,
}

impl TinyModel {
    fn new(seed: u64, dtype: DType) -> Self {
        let draw = |name: &str, rows: usize, columns: usize, scale: f32| {
            let mut rng = SeedTree::new(seed).child(name).rng();
            let values: Vec<f32> = (0..rows * columns)
                .map(|_| scale * (rng.random::<f32>() - 0.5))
                .collect();
            Tensor::from_vec(values, (rows, columns), &Device::Cpu)
                .unwrap()
                .to_dtype(dtype)
                .unwrap()
        };
        Self {
            embedding: draw("embedding", A + 1, WIDTH, 4.0),
            hidden: draw("hidden", 2 * WIDTH, WIDTH, 2.0),
            head: draw("head", WIDTH, A, 4.0),
        }
    }

    fn logits(&self, prefix: &[Token]) -> candle_core::Result<Tensor> {
        let token = |back: usize| {
            prefix
                .len()
                .checked_sub(back)
                .map_or(A as u32, |i| prefix[i])
        };
        let context = Tensor::new(&[token(2), token(1)], &Device::Cpu)?;
        let x = self
            .embedding
            .index_select(&context, 0)?
            .reshape((1, 2 * WIDTH))?;
        x.matmul(&self.hidden)?
            .tanh()?
            .matmul(&self.head)?
            .reshape(A)
    }
}

#[test]
fn best_first_finds_what_enumeration_finds() {
    for (seed, dtype) in [
        (0, DType::F32),
        (1, DType::F64),
        (2, DType::BF16),
        (3, DType::F32),
    ] {
        let network = TinyModel::new(seed, dtype);
        let model = CandleModel::new(|prefix: &[Token]| network.logits(prefix), A);
        // Softmax written out, against the model's own.
        for prefix in [vec![], vec![3], vec![1, 4, 0]] {
            let logits = network.logits(&prefix).unwrap();
            let logits: Vec<f64> = logits.to_dtype(DType::F64).unwrap().to_vec1().unwrap();
            let sum: f64 = logits.iter().map(|l| l.exp()).sum();
            let row = model.log_probs(&prefix).unwrap();
            for (log_prob, logit) in row.iter().zip(&logits) {
                assert!((log_prob.exp() - logit.exp() / sum).abs() < 1e-14);
            }
        }
        let mut level = vec![(Vec::new(), 0.0)];
        for _ in 0..H {
            level = level
                .iter()
                .flat_map(|(prefix, mass): &(Vec<Token>, f64)| {
                    let row = model.log_probs(prefix).unwrap();
                    row.into_iter()
                        .enumerate()
                        .map(move |(a, l)| ([prefix.clone(), vec![a as Token]].concat(), mass + l))
                })
                .collect();
        }
        let masses: Vec<f64> = level.iter().map(|(_, mass)| *mass).collect();
        assert!(log_sum_exp(&masses).abs() < 1e-12);
        let (best, mass) = level.iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();

        let policy = CallbackEvaluator::new(model, A, H, 1e-12).unwrap();
        let mut oracle = CountingOracle::new(EvaluatorOracle::new(policy));
        let found = best_first(&mut oracle, &BestFirst::default()).unwrap();
        assert!(found.certified && (found.mass.0 - mass).abs() < 1e-12);
        assert_eq!(&found.response, best);
        assert!(
            oracle.queries() < A.pow(H as u32) as u64 / 10,
            "{} queries",
            oracle.queries()
        );
    }
}

#[test]
fn bad_logits_are_named() {
    let ask = |logits: Vec<f32>| {
        let n = logits.len();
        let model = CandleModel::new(
            move |_: &[Token]| Tensor::from_vec(logits.clone(), n, &Device::Cpu),
            3,
        );
        model.log_probs(&[2]).unwrap_err()
    };
    assert!(matches!(
        ask(vec![0.0; 4]),
        Error::Shape {
            expected: 3,
            got: 4,
            ..
        }
    ));
    assert!(matches!(
        ask(vec![f32::NAN, 0.0, 0.0]),
        Error::NonFinite { .. }
    ));
    assert!(matches!(
        ask(vec![f32::NEG_INFINITY; 3]),
        Error::NonFinite { .. }
    ));
    let with_batch = CandleModel::new(
        |_: &[Token]| Tensor::zeros((1, 3), DType::F32, &Device::Cpu),
        3,
    );
    let error = with_batch.log_probs(&[2]).unwrap_err().to_string();
    assert!(error.contains("expected shape [3], got [1, 3]"), "{error}");
    let broken = CandleModel::new(
        |_: &[Token]| Tensor::zeros((2, 2), DType::F32, &Device::Cpu)?.reshape(5),
        3,
    );
    let error = broken.log_probs(&[]).unwrap_err();
    assert!(matches!(error, Error::Evaluator { .. }));
    let source = std::error::Error::source(&error).unwrap();
    assert!(source.is::<candle_core::Error>(), "{source}");
}
