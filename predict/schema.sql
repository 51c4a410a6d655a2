-- The store of runs. A cache: `predict ingest` rebuilds it from run folders and packed studies.
-- Shares and pass@k are fractions in 0..1; losses are in nats; times in seconds.

CREATE TABLE runs (
    run_id VARCHAR PRIMARY KEY,      -- 16 hex digits; see docs: identity of a run
    stage VARCHAR NOT NULL,          -- base, sft, grpo, dense_path
    status VARCHAR NOT NULL,         -- running, done, failed, collapsed
    parent_run_id VARCHAR,           -- the run whose checkpoint this one started from
    parent_step BIGINT,              -- that checkpoint's step
    base_model VARCHAR,              -- name of the model at the root of the lineage
    family VARCHAR,                  -- model architecture, such as llama
    dataset VARCHAR,                 -- recipe/variant of the training set
    dataset_hash VARCHAR,            -- content hash of the training set
    variant JSON,                    -- factors of the training set
    cell VARCHAR,                    -- recipe x base model x SFT hyperparameters, without seeds
    rl_recipe VARCHAR,               -- hash of the RL config without its seed
    config JSON,                     -- resolved settings
    data_seed BIGINT, sft_seed BIGINT, rl_seed BIGINT,
    steps BIGINT,                    -- updates made
    tokens BIGINT,                   -- tokens trained on (sft) or sampled (grpo)
    seconds DOUBLE,                  -- wall time of training
    engine VARCHAR, versions JSON, "commit" VARCHAR, hardware JSON,
    created_at VARCHAR, finished_at VARCHAR, -- UTC, ISO 8601
    source VARCHAR NOT NULL          -- folder or packed study it was read from
);

CREATE TABLE evaluation_jobs (
    run_id VARCHAR NOT NULL, step BIGINT NOT NULL,
    key_id VARCHAR NOT NULL,         -- hash of `key`: numbers of different key_id are not comparable
    seed BIGINT NOT NULL,            -- of the sampling
    purpose VARCHAR NOT NULL,        -- signals, rl_signals (on RL's problems, before it), outcome, outcome_shifted, other
    benchmark VARCHAR NOT NULL,
    key JSON NOT NULL,               -- benchmark, split, problem set, template, verifier, temperature, ...
    provenance JSON NOT NULL,
    PRIMARY KEY (run_id, step, key_id, seed)
);

CREATE TABLE evaluations (
    run_id VARCHAR NOT NULL, step BIGINT NOT NULL, key_id VARCHAR NOT NULL, seed BIGINT NOT NULL,
    benchmark VARCHAR NOT NULL, problem_id VARCHAR NOT NULL,
    num_samples BIGINT NOT NULL,     -- completions
    num_correct BIGINT NOT NULL, num_no_answer BIGINT NOT NULL, num_unparsable BIGINT NOT NULL,
    num_truncated BIGINT NOT NULL,   -- cut at the token limit
    mean_tokens DOUBLE,              -- tokens a completion
    CHECK (0 <= num_correct AND num_correct <= num_samples)
);

CREATE TABLE losses (
    run_id VARCHAR NOT NULL, step BIGINT NOT NULL,
    heldout VARCHAR NOT NULL, heldout_hash VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,           -- shared, own, style_free, result_tokens, rl_style_free, rl_result_tokens
    nats_per_token DOUBLE, nats_per_example DOUBLE, tokens BIGINT, examples BIGINT,
    entropy_teacher_forced DOUBLE    -- nats a token
);

CREATE TABLE signals (run_id VARCHAR NOT NULL, step BIGINT NOT NULL, name VARCHAR NOT NULL, value DOUBLE, method VARCHAR);
CREATE TABLE metrics (run_id VARCHAR NOT NULL, step BIGINT NOT NULL, name VARCHAR NOT NULL, value DOUBLE);

CREATE TABLE forecast_files (
    forecast_id VARCHAR PRIMARY KEY,
    created_at VARCHAR NOT NULL,     -- UTC, ISO 8601
    predictor VARCHAR NOT NULL,
    document JSON NOT NULL           -- the file as written
);

-- 1 - C(n - c, k) / C(n, k); null past n (Chen et al. 2021, arXiv 2107.03374)
CREATE MACRO estimate(n, c, k) AS CASE
    WHEN k > n THEN NULL
    WHEN n - c < k THEN 1.0
    WHEN c = 0 THEN 0.0
    ELSE 1.0 - list_aggregate(list_transform(range(n - c + 1, n + 1), lambda i: 1.0 - k / i), 'product')
END;

-- log C(n, k); -inf where it is 0
CREATE MACRO log_choose(n, k) AS CASE
    WHEN k < 0 OR k > n THEN -'inf'::DOUBLE ELSE lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) END;

-- Counts of equal key and distinct seed, added up.
CREATE VIEW counts AS
SELECT e.run_id, e.step, j.purpose, e.key_id, e.benchmark, e.problem_id,
       sum(e.num_samples)::BIGINT AS num_samples, sum(e.num_correct)::BIGINT AS num_correct,
       sum(e.num_truncated)::BIGINT AS num_truncated,
       sum(e.num_samples * e.mean_tokens) / sum(e.num_samples) AS mean_tokens
FROM evaluations e JOIN evaluation_jobs j USING (run_id, step, key_id, seed)
GROUP BY e.run_id, e.step, j.purpose, e.key_id, e.benchmark, e.problem_id;

CREATE VIEW pass_at_k AS
SELECT run_id, step, benchmark, k,
       CASE WHEN min(num_samples) >= k THEN avg(estimate(num_samples, num_correct, k)) END AS value,
       CASE WHEN min(num_samples) >= k
            THEN stddev_samp(estimate(num_samples, num_correct, k)) / sqrt(count(*)) END AS se, -- over problems
       purpose, key_id, count(*) AS n_problems, min(num_samples) AS num_samples
FROM counts CROSS JOIN unnest([1, 2, 4, 8, 16, 32, 64, 128, 256]) AS ks(k)
GROUP BY run_id, step, benchmark, purpose, key_id, k;

-- Keys that all checkpoints measured for a purpose share. Of several keys of one benchmark one counts, at temperature 1 if there is one:
-- numbers of different keys are never averaged.
CREATE VIEW shared_keys AS
WITH measured AS (
    SELECT DISTINCT purpose, benchmark, key_id, run_id, step, (key->>'temperature')::DOUBLE AS temperature FROM evaluation_jobs
)
SELECT purpose, key_id FROM measured
GROUP BY purpose, benchmark, key_id
HAVING count(*) = (SELECT count(DISTINCT (m.run_id, m.step)) FROM measured m WHERE m.purpose = measured.purpose)
QUALIFY row_number() OVER (PARTITION BY purpose, benchmark ORDER BY any_value(temperature) = 1 DESC, key_id) = 1;

-- Per checkpoint, macro mean over the benchmarks that all checkpoints of that purpose share.
CREATE VIEW checkpoint_pass AS
SELECT run_id, step, purpose, k, avg(value) AS value, string_agg(key_id, '+' ORDER BY key_id) AS key_ids
FROM pass_at_k JOIN shared_keys USING (purpose, key_id)
GROUP BY run_id, step, purpose, k;

CREATE VIEW checkpoint_counts AS
SELECT run_id, step, purpose,
       -- share of problems whose group of 16 would be mixed: 1 - [C(c, 16) + C(n - c, 16)] / C(n, 16), unbiased
       CASE WHEN min(num_samples) >= 16 THEN avg(1 - exp(log_choose(num_correct, 16) - log_choose(num_samples, 16))
               - exp(log_choose(num_samples - num_correct, 16) - log_choose(num_samples, 16))) END AS mixed_share,
       -- expected sqrt(a (1 - a)) over groups of 16 drawn without replacement (hypergeometric), unbiased
       CASE WHEN min(num_samples) >= 16 THEN avg(list_sum(list_transform(range(1, 16), lambda j:
               exp(log_choose(num_correct, j) + log_choose(num_samples - num_correct, 16 - j)
                   - log_choose(num_samples, 16)) * sqrt(j / 16 * (1 - j / 16))))) END AS expected_signal,
       sum(num_samples * mean_tokens) / sum(num_samples) AS mean_tokens,
       sum(num_truncated) / sum(num_samples) AS truncated_share,
       -- the problems in two halves, by a hash of their ids: a maximum picked on one is valued on the other
       avg(CASE WHEN md5(problem_id) < '8' THEN num_correct / num_samples END) AS half_1,
       avg(CASE WHEN md5(problem_id) >= '8' THEN num_correct / num_samples END) AS half_2,
       -- variance of the mean on these very problems, from drawing samples: sum p (1 - p) / (n - 1) / P^2
       CASE WHEN min(num_samples) > 1 THEN
           sum(num_correct / num_samples * (1 - num_correct / num_samples) / (num_samples - 1)) / count(*) ** 2
       END AS sampling_variance
FROM counts JOIN shared_keys USING (purpose, key_id)
GROUP BY run_id, step, purpose;

-- Latest loss of each kind.
CREATE VIEW checkpoint_losses AS
SELECT run_id, step,
       arg_max(nats_per_token, rowid) FILTER (kind = 'shared') AS gen_loss,
       arg_max(nats_per_token, rowid) FILTER (kind = 'own') AS gen_loss_own,
       arg_max(nats_per_example, rowid) FILTER (kind = 'style_free') AS gen_loss_style_free,
       arg_max(nats_per_token, rowid) FILTER (kind = 'result_tokens') AS gen_loss_result,
       arg_max(nats_per_example, rowid) FILTER (kind = 'rl_style_free') AS rl_loss_style_free,
       arg_max(nats_per_token, rowid) FILTER (kind = 'rl_result_tokens') AS rl_loss_result,
       arg_max(heldout_hash, rowid) FILTER (kind = 'shared') AS heldout_hash
FROM losses GROUP BY run_id, step;

-- Every measured property of a checkpoint that is known before RL.
CREATE VIEW checkpoint_signals AS
WITH wide AS (
    SELECT run_id, step, any_value(key_ids) AS signal_keys,
           any_value(value) FILTER (k = 1) AS pass_at_1, any_value(value) FILTER (k = 2) AS pass_at_2,
           any_value(value) FILTER (k = 4) AS pass_at_4, any_value(value) FILTER (k = 8) AS pass_at_8,
           any_value(value) FILTER (k = 16) AS pass_at_16, any_value(value) FILTER (k = 32) AS pass_at_32,
           any_value(value) FILTER (k = 64) AS pass_at_64, any_value(value) FILTER (k = 128) AS pass_at_128,
           any_value(value) FILTER (k = 256) AS pass_at_256
    FROM checkpoint_pass WHERE purpose = 'signals' GROUP BY run_id, step
), entropies AS (
    SELECT run_id, step, arg_max(value, rowid) AS entropy_t1 FROM signals WHERE name = 'entropy_t1' GROUP BY run_id, step
), on_rl_problems AS (
    SELECT run_id, step, any_value(value) FILTER (k = 1) AS rl_pass_at_1, any_value(value) FILTER (k = 8) AS rl_pass_at_8,
           any_value(value) FILTER (k = 32) AS rl_pass_at_32, any_value(counts.mixed_share) AS rl_mixed_share,
           any_value(counts.expected_signal) AS rl_expected_signal
    FROM checkpoint_pass JOIN checkpoint_counts counts USING (run_id, step, purpose)
    WHERE purpose = 'rl_signals' GROUP BY run_id, step
), ids AS (
    SELECT run_id, step FROM wide UNION SELECT run_id, step FROM checkpoint_losses
)
SELECT ids.run_id, ids.step, wide.* EXCLUDE (run_id, step), losses.* EXCLUDE (run_id, step), entropy_t1,
       mixed_share, expected_signal, mean_tokens, truncated_share, on_rl_problems.* EXCLUDE (run_id, step)
FROM ids
LEFT JOIN wide USING (run_id, step)
LEFT JOIN on_rl_problems USING (run_id, step)
LEFT JOIN checkpoint_losses losses USING (run_id, step)
LEFT JOIN entropies USING (run_id, step)
LEFT JOIN (SELECT * FROM checkpoint_counts WHERE purpose = 'signals') USING (run_id, step);

-- One row per RL run, with the state it was left in.
CREATE VIEW rl_runs AS
WITH early AS ( -- reward in the first 5 steps: level at step 1 and change a step, by least squares
    SELECT run_id, regr_intercept(value, step - 1) AS early_reward_start, regr_slope(value, step - 1) AS early_reward_slope
    FROM metrics WHERE name = 'reward_mean' AND step <= 5 GROUP BY run_id HAVING count(*) = 5
), ended AS ( -- a failed run has no outcome, a collapsed one has
    SELECT run_id, steps FROM runs WHERE status IN ('done', 'collapsed')
), post AS (
    SELECT run_id, step, any_value(value) FILTER (k = 1) AS post_pass_at_1,
           any_value(value) FILTER (k = 8) AS post_pass_at_8, any_value(value) FILTER (k = 64) AS post_pass_at_64
    FROM checkpoint_pass WHERE purpose = 'outcome' GROUP BY run_id, step
), shifted AS (
    SELECT run_id, step, value AS post_shifted_pass_at_1 FROM checkpoint_pass WHERE purpose = 'outcome_shifted' AND k = 1
)
SELECT r.run_id, r.rl_seed, r.rl_recipe, r.status, r.parent_run_id AS start_run_id, r.parent_step AS start_step,
       r.stage, r.base_model, r.cell, r.steps, r.seconds, r.created_at,
       start.* EXCLUDE (run_id, step),
       post_pass_at_1, post_pass_at_8, post_pass_at_64, post_shifted_pass_at_1,
       counts.mean_tokens AS post_tokens, counts.half_1, counts.half_2, counts.sampling_variance,
       early_reward_start, early_reward_slope
FROM runs r
LEFT JOIN checkpoint_signals start ON start.run_id = r.parent_run_id AND start.step = r.parent_step
LEFT JOIN ended ON ended.run_id = r.run_id
LEFT JOIN post ON post.run_id = ended.run_id AND post.step = ended.steps
LEFT JOIN shifted ON shifted.run_id = ended.run_id AND shifted.step = ended.steps
LEFT JOIN checkpoint_counts counts ON counts.run_id = ended.run_id AND counts.step = ended.steps AND counts.purpose = 'outcome'
LEFT JOIN early ON early.run_id = r.run_id
WHERE r.stage IN ('grpo', 'dense_path');

-- One row per (start checkpoint, rl_recipe): what was known before RL, and how RL ended where it was run.
CREATE VIEW checkpoints AS
WITH outcomes AS (
    SELECT start_run_id, start_step, rl_recipe,
           avg(post_pass_at_1) AS outcome_pass_at_1, stddev_samp(post_pass_at_1) AS outcome_sd,
           count(post_pass_at_1) AS n_rl_seeds, avg(post_pass_at_64) AS outcome_pass_at_64,
           avg(post_shifted_pass_at_1) AS outcome_shifted_pass_at_1, avg(post_tokens) AS outcome_tokens,
           avg(half_1) AS outcome_half_1, avg(half_2) AS outcome_half_2,
           avg(sampling_variance) / count(post_pass_at_1) AS outcome_sampling_variance,
           avg(early_reward_start) AS early_reward_start, avg(early_reward_slope) AS early_reward_slope,
           avg(seconds) AS rl_seconds, bool_or(status = 'collapsed') AS collapsed
    FROM rl_runs GROUP BY start_run_id, start_step, rl_recipe
), starts AS (
    SELECT run_id, step, value AS start_pass_at_1 FROM checkpoint_pass WHERE purpose = 'outcome' AND k = 1
), bases AS (
    SELECT r.base_model, any_value(s.pass_at_64) AS base_pass_at_64
    FROM checkpoint_signals s JOIN runs r USING (run_id) WHERE r.stage = 'base' GROUP BY r.base_model
)
SELECT r.run_id, s.step, r.stage, r.base_model, r.family, r.dataset,
       r.variant->>'name' AS variant, (r.variant->>'n_examples')::BIGINT AS n_examples,
       (r.variant->>'epochs')::BIGINT AS epochs, r.variant->>'length_mix' AS length_mix,
       r.variant->>'behaviors' AS behaviors, (r.config->>'learning_rate')::DOUBLE AS sft_learning_rate,
       r.cell, r.data_seed, r.sft_seed, r.status,
       s.* EXCLUDE (run_id, step, signal_keys, heldout_hash),
       -- nats a token above the lowest loss of the same ladder: base model and held-out set
       s.gen_loss - min(s.gen_loss) OVER (PARTITION BY r.base_model, s.heldout_hash) AS loss_over_min,
       s.pass_at_64 / nullif(bases.base_pass_at_64, 0) AS coverage_ratio,
       s.signal_keys, s.heldout_hash, starts.start_pass_at_1,
       o.* EXCLUDE (start_run_id, start_step)
FROM checkpoint_signals s
JOIN runs r USING (run_id)
LEFT JOIN starts USING (run_id, step)
LEFT JOIN bases USING (base_model)
LEFT JOIN outcomes o ON o.start_run_id = s.run_id AND o.start_step = s.step
WHERE r.stage IN ('base', 'sft') AND (r.stage = 'sft' OR o.start_run_id IS NOT NULL);

CREATE VIEW lineage AS
WITH RECURSIVE up(run_id, ancestor, depth) AS (
    SELECT run_id, parent_run_id, 1 FROM runs WHERE parent_run_id IS NOT NULL
    UNION ALL
    SELECT up.run_id, runs.parent_run_id, depth + 1 FROM up JOIN runs ON runs.run_id = up.ancestor
    WHERE runs.parent_run_id IS NOT NULL
)
SELECT * FROM up;

-- Training curves, one row a run, step and metric.
CREATE VIEW curves AS
SELECT r.run_id, r.stage, r.base_model, r.cell, m.step, m.name, m.value FROM metrics m JOIN runs r USING (run_id);

-- Each forecast candidate beside what happened, once it has.
CREATE VIEW forecasts AS
WITH candidates AS (
    SELECT forecast_id, created_at, predictor, document->>'outcome' AS outcome,
           unnest(from_json(document->'candidates', '[{"id": "VARCHAR", "point": "DOUBLE", "low": "DOUBLE", "high": "DOUBLE",
               "low_50": "DOUBLE", "high_50": "DOUBLE", "p_best": "DOUBLE", "expected_regret": "DOUBLE"}]')) AS c
    FROM forecast_files
), started AS (
    SELECT start_run_id || '@' || start_step AS id, min(created_at) AS rl_created_at
    FROM rl_runs GROUP BY start_run_id, start_step
), results AS (
    SELECT run_id || '@' || step AS id, any_value(outcome_pass_at_1) AS outcome_pass_at_1,
           any_value(outcome_pass_at_64) AS outcome_pass_at_64, any_value(variant) AS variant,
           any_value(sft_learning_rate) AS sft_learning_rate, any_value(epochs) AS epochs, any_value(data_seed) AS data_seed,
           any_value(start_pass_at_1) AS start_pass_at_1, any_value(pass_at_1) AS pass_at_1
    FROM checkpoints GROUP BY run_id, step
), compared AS (
    SELECT *, CASE outcome WHEN 'outcome_pass_at_1' THEN outcome_pass_at_1 WHEN 'outcome_pass_at_64' THEN outcome_pass_at_64 END AS measured
    FROM candidates LEFT JOIN results ON results.id = c.id
)
SELECT forecast_id, created_at, predictor, outcome, c.id AS id, variant, sft_learning_rate, epochs, data_seed, pass_at_1, start_pass_at_1,
       c.point AS point, c.low AS low, c.high AS high, c.low_50 AS low_50, c.high_50 AS high_50,
       c.p_best AS p_best, c.expected_regret AS expected_regret, measured, measured BETWEEN c.low AND c.high AS inside,
       rl_created_at, created_at < rl_created_at AS before_rl
FROM compared LEFT JOIN started ON started.id = c.id;
