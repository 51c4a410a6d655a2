-- The store of runs: tables, macros and views. A cache: `predict ingest` builds it from run folders and packed studies.
-- Shares and pass@k are fractions in 0..1; losses are in nats; times in seconds. What each column means stands in columns.py.

CREATE TABLE runs (
    run_id VARCHAR PRIMARY KEY, stage VARCHAR NOT NULL, status VARCHAR NOT NULL,
    parent_run_id VARCHAR, parent_step BIGINT,
    base_model VARCHAR, family VARCHAR, dataset VARCHAR, dataset_hash VARCHAR, variant JSON, cell VARCHAR, rl_recipe VARCHAR, config JSON,
    data_seed BIGINT, sft_seed BIGINT, rl_seed BIGINT,
    steps BIGINT, tokens BIGINT, seconds DOUBLE,
    engine VARCHAR, versions JSON, "commit" VARCHAR, hardware JSON, created_at VARCHAR, finished_at VARCHAR,
    source VARCHAR NOT NULL
);

CREATE TABLE evaluation_jobs (
    run_id VARCHAR NOT NULL, step BIGINT NOT NULL, key_id VARCHAR NOT NULL, seed BIGINT NOT NULL,
    purpose VARCHAR NOT NULL, benchmark VARCHAR NOT NULL, key JSON NOT NULL, provenance JSON NOT NULL,
    PRIMARY KEY (run_id, step, key_id, seed)
);

CREATE TABLE evaluations (
    run_id VARCHAR NOT NULL, step BIGINT NOT NULL, key_id VARCHAR NOT NULL, seed BIGINT NOT NULL,
    benchmark VARCHAR NOT NULL, problem_id VARCHAR NOT NULL,
    num_samples BIGINT NOT NULL, num_correct BIGINT NOT NULL,
    num_no_answer BIGINT, num_unparsable BIGINT, num_truncated BIGINT, mean_tokens DOUBLE,
    CHECK (0 <= num_correct AND num_correct <= num_samples)
);

CREATE TABLE losses (
    run_id VARCHAR NOT NULL, step BIGINT NOT NULL, heldout VARCHAR NOT NULL, heldout_hash VARCHAR NOT NULL, kind VARCHAR NOT NULL,
    nats_per_token DOUBLE, nats_per_example DOUBLE, tokens BIGINT, examples BIGINT, entropy_teacher_forced DOUBLE
);

CREATE TABLE signals (run_id VARCHAR NOT NULL, step BIGINT NOT NULL, name VARCHAR NOT NULL, value DOUBLE, method VARCHAR);
CREATE TABLE metrics (run_id VARCHAR NOT NULL, step BIGINT NOT NULL, name VARCHAR NOT NULL, value DOUBLE);

CREATE TABLE forecast_files (
    forecast_id VARCHAR PRIMARY KEY, created_at VARCHAR NOT NULL, predictor VARCHAR NOT NULL, document JSON NOT NULL
);

CREATE TABLE ingested (folder VARCHAR NOT NULL, signature VARCHAR NOT NULL, run_id VARCHAR NOT NULL);
CREATE TABLE ingest_facts (name VARCHAR PRIMARY KEY, value VARCHAR NOT NULL);

-- 1 - C(n - c, k) / C(n, k); null past n (Chen et al. 2021, arXiv 2107.03374)
CREATE MACRO pass_at_k(n, c, k) AS CASE
    WHEN c < 0 OR c > n OR k < 1 THEN error('pass_at_k(n, c, k): expected 0 <= c <= n and k >= 1')
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
       -- null where one of the jobs does not say it
       CASE WHEN count(e.num_truncated) = count(*) THEN sum(e.num_truncated)::BIGINT END AS num_truncated,
       CASE WHEN count(e.mean_tokens) = count(*) THEN sum(e.num_samples * e.mean_tokens) / sum(e.num_samples) END AS mean_tokens
FROM evaluations e JOIN evaluation_jobs j USING (run_id, step, key_id, seed)
GROUP BY e.run_id, e.step, j.purpose, e.key_id, e.benchmark, e.problem_id;

-- All that pass@k depends on. This view and the two that read it are per run: ingest keeps their rows as tables.
CREATE VIEW tallies AS
SELECT run_id, step, purpose, benchmark, key_id, num_samples, num_correct, count(*) AS problems
FROM counts GROUP BY run_id, step, purpose, benchmark, key_id, num_samples, num_correct;

CREATE VIEW pass_at_k AS
WITH estimates AS (
    SELECT num_samples, num_correct, k, pass_at_k(num_samples, num_correct, k) AS estimate
    FROM (SELECT DISTINCT num_samples, num_correct FROM tallies) CROSS JOIN unnest([1, 2, 4, 8, 16, 32, 64, 128, 256]) AS ks(k)
), each AS (
    SELECT t.run_id, t.step, t.purpose, t.benchmark, t.key_id, k, num_samples, problems, estimate
    FROM tallies t JOIN estimates USING (num_samples, num_correct)
), means AS (
    SELECT run_id, step, purpose, benchmark, key_id, k, sum(problems)::BIGINT AS n_problems, min(num_samples) AS least,
           CASE WHEN min(num_samples) >= k THEN sum(problems * estimate) / sum(problems) END AS mean
    FROM each GROUP BY run_id, step, purpose, benchmark, key_id, k
)
SELECT run_id, step, benchmark, k, any_value(mean) AS value,
       CASE WHEN any_value(n_problems) > 1 THEN -- over problems
           sqrt(sum(problems * (estimate - mean) ** 2) / (any_value(n_problems) - 1) / any_value(n_problems)) END AS se,
       purpose, key_id, any_value(n_problems) AS n_problems, any_value(least) AS num_samples
FROM each JOIN means USING (run_id, step, purpose, benchmark, key_id, k)
GROUP BY run_id, step, purpose, benchmark, key_id, k;

CREATE VIEW benchmark_counts AS
WITH groups AS ( -- of 16, drawn from a problem's samples without replacement (hypergeometric): both means are unbiased
    SELECT num_samples, num_correct,
           1 - exp(log_choose(num_correct, 16) - log_choose(num_samples, 16))
             - exp(log_choose(num_samples - num_correct, 16) - log_choose(num_samples, 16)) AS mixed,
           list_sum(list_transform(range(1, 16), lambda j:
               exp(log_choose(num_correct, j) + log_choose(num_samples - num_correct, 16 - j)
                   - log_choose(num_samples, 16)) * sqrt(j / 16 * (1 - j / 16)))) AS signal
    FROM (SELECT DISTINCT num_samples, num_correct FROM tallies)
)
SELECT run_id, step, purpose, benchmark, key_id,
       CASE WHEN min(num_samples) >= 16 THEN avg(mixed) END AS mixed_share,
       CASE WHEN min(num_samples) >= 16 THEN avg(signal) END AS expected_signal,
       CASE WHEN count(mean_tokens) = count(*) THEN sum(num_samples * mean_tokens) / sum(num_samples) END AS mean_tokens,
       CASE WHEN count(num_truncated) = count(*) THEN sum(num_truncated) / sum(num_samples) END AS truncated_share,
       -- the problems in two halves, by a hash of their ids: a maximum picked on one is valued on the other
       avg(CASE WHEN md5(problem_id) < '8' THEN num_correct / num_samples END) AS half_1,
       avg(CASE WHEN md5(problem_id) >= '8' THEN num_correct / num_samples END) AS half_2,
       -- variance of the mean on these very problems, from drawing samples: sum p (1 - p) / (n - 1) / P^2
       CASE WHEN min(num_samples) > 1 THEN
           sum(num_correct / num_samples * (1 - num_correct / num_samples) / (num_samples - 1)) / count(*) ** 2
       END AS sampling_variance
FROM counts JOIN groups USING (num_samples, num_correct)
GROUP BY run_id, step, purpose, benchmark, key_id;

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
SELECT run_id, step, purpose, avg(mixed_share) AS mixed_share, avg(expected_signal) AS expected_signal,
       avg(mean_tokens) AS mean_tokens, avg(truncated_share) AS truncated_share, avg(half_1) AS half_1, avg(half_2) AS half_2,
       sum(sampling_variance) / count(*) ** 2 AS sampling_variance
FROM benchmark_counts JOIN shared_keys USING (purpose, key_id)
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
), scalars AS ( -- the latest of each name
    SELECT run_id, step, arg_max(value, rowid) FILTER (name = 'entropy_t1') AS entropy_t1,
           arg_max(value, rowid) FILTER (name = 'influence') AS influence,
           arg_max(value, rowid) FILTER (name = 'co_influence') AS co_influence,
           arg_max(value, rowid) FILTER (name = 'gradient_agreement') AS gradient_agreement
    FROM signals GROUP BY run_id, step
), on_rl_problems AS (
    SELECT run_id, step, any_value(value) FILTER (k = 1) AS rl_pass_at_1, any_value(value) FILTER (k = 8) AS rl_pass_at_8,
           any_value(value) FILTER (k = 32) AS rl_pass_at_32, any_value(counts.mixed_share) AS rl_mixed_share,
           any_value(counts.expected_signal) AS rl_expected_signal
    FROM checkpoint_pass JOIN checkpoint_counts counts USING (run_id, step, purpose)
    WHERE purpose = 'rl_signals' GROUP BY run_id, step
), ids AS (
    SELECT run_id, step FROM wide UNION SELECT run_id, step FROM checkpoint_losses
)
SELECT ids.run_id, ids.step, wide.* EXCLUDE (run_id, step), losses.* EXCLUDE (run_id, step),
       scalars.* EXCLUDE (run_id, step), mixed_share, expected_signal, mean_tokens, truncated_share, on_rl_problems.* EXCLUDE (run_id, step)
FROM ids
LEFT JOIN wide USING (run_id, step)
LEFT JOIN on_rl_problems USING (run_id, step)
LEFT JOIN checkpoint_losses losses USING (run_id, step)
LEFT JOIN scalars USING (run_id, step)
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
), late AS ( -- of a run that was evaluated as it went: a mean over the last 5 steps measured, steadier than the last one
    SELECT run_id, avg(value) AS post_last5_pass_at_1
    FROM (
        SELECT run_id, value FROM checkpoint_pass JOIN ended USING (run_id)
        WHERE purpose = 'outcome' AND k = 1 AND step BETWEEN 1 AND steps
        QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY step DESC) <= 5
    )
    GROUP BY run_id HAVING count(*) = 5
), shifted AS (
    SELECT run_id, step, value AS post_shifted_pass_at_1 FROM checkpoint_pass WHERE purpose = 'outcome_shifted' AND k = 1
)
SELECT r.run_id, r.rl_seed, r.rl_recipe, r.status, r.parent_run_id AS start_run_id, r.parent_step AS start_step,
       r.stage, r.base_model, r.cell, r.steps, r.seconds, r.created_at,
       start.* EXCLUDE (run_id, step),
       post_pass_at_1, post_pass_at_8, post_pass_at_64, post_last5_pass_at_1, post_shifted_pass_at_1,
       counts.mean_tokens AS post_tokens, counts.half_1, counts.half_2, counts.sampling_variance,
       early_reward_start, early_reward_slope
FROM runs r
LEFT JOIN checkpoint_signals start ON start.run_id = r.parent_run_id AND start.step = r.parent_step
LEFT JOIN ended ON ended.run_id = r.run_id
LEFT JOIN post ON post.run_id = ended.run_id AND post.step = ended.steps
LEFT JOIN late ON late.run_id = r.run_id
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
           avg(post_last5_pass_at_1) AS outcome_last5_pass_at_1, avg(post_shifted_pass_at_1) AS outcome_shifted_pass_at_1,
           avg(post_tokens) AS outcome_tokens,
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
       r.variant->>'name' AS variant, try_cast(r.variant->>'n_examples' AS BIGINT) AS n_examples,
       try_cast(r.variant->>'epochs' AS BIGINT) AS epochs, r.variant->>'length_mix' AS length_mix,
       r.variant->>'behaviors' AS behaviors, try_cast(r.config->>'learning_rate' AS DOUBLE) AS sft_learning_rate,
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

-- What each run came from: one row per run and ancestor, so that datasets can be followed through SFT to RL.
CREATE VIEW lineage AS
WITH RECURSIVE up(run_id, ancestor, ancestor_step, depth) AS (
    SELECT run_id, parent_run_id, parent_step, 1 FROM runs WHERE parent_run_id IS NOT NULL
    UNION ALL
    SELECT up.run_id, r.parent_run_id, r.parent_step, depth + 1 FROM up JOIN runs r ON r.run_id = up.ancestor
    WHERE r.parent_run_id IS NOT NULL AND depth < 100 -- imported runs may name each other as parents
)
SELECT up.run_id, r.stage, r.dataset, r.dataset_hash, ancestor, ancestor_step, a.stage AS ancestor_stage,
       a.dataset AS ancestor_dataset, a.dataset_hash AS ancestor_dataset_hash, depth
FROM up JOIN runs r USING (run_id) LEFT JOIN runs a ON a.run_id = ancestor;

-- Training curves, one row a run, step and metric.
CREATE VIEW curves AS
SELECT r.run_id, r.stage, r.base_model, r.cell, m.step, m.name, m.value FROM metrics m JOIN runs r USING (run_id);

-- Each forecast candidate beside what happened, once it has: under the RL recipe that the forecast was fitted on.
-- A forecast that does not name its recipe is compared where the store holds one recipe only.
CREATE VIEW forecasts AS
WITH candidates AS (
    SELECT forecast_id, created_at, predictor, document->>'outcome' AS outcome, document->>'$.fitted_on.rl_recipe' AS named,
           unnest(from_json(document->'candidates', '[{"id": "VARCHAR", "point": "DOUBLE", "low": "DOUBLE", "high": "DOUBLE",
               "low_50": "DOUBLE", "high_50": "DOUBLE", "p_best": "DOUBLE", "expected_regret": "DOUBLE"}]')) AS c
    FROM forecast_files
), meant AS (
    SELECT *, coalesce(named, (SELECT any_value(rl_recipe) FROM rl_runs HAVING count(DISTINCT rl_recipe) = 1)) AS rl_recipe
    FROM candidates
), started AS (
    SELECT start_run_id || '@' || start_step AS id, rl_recipe, min(created_at) AS rl_created_at
    FROM rl_runs GROUP BY start_run_id, start_step, rl_recipe
), results AS (
    SELECT run_id || '@' || step AS id, rl_recipe, outcome_pass_at_1, outcome_pass_at_64, outcome_last5_pass_at_1, outcome_shifted_pass_at_1
    FROM checkpoints
), starts AS ( -- equal in the rows of all recipes
    SELECT run_id || '@' || step AS id, any_value(variant) AS variant, any_value(sft_learning_rate) AS sft_learning_rate,
           any_value(epochs) AS epochs, any_value(data_seed) AS data_seed, any_value(pass_at_1) AS pass_at_1,
           any_value(start_pass_at_1) AS start_pass_at_1
    FROM checkpoints GROUP BY run_id, step
), compared AS (
    SELECT meant.*, rl_created_at, CASE outcome
               WHEN 'outcome_pass_at_1' THEN outcome_pass_at_1 WHEN 'outcome_pass_at_64' THEN outcome_pass_at_64
               WHEN 'outcome_last5_pass_at_1' THEN outcome_last5_pass_at_1
               WHEN 'outcome_shifted_pass_at_1' THEN outcome_shifted_pass_at_1 END AS measured
    FROM meant
    LEFT JOIN results ON results.id = meant.c.id AND results.rl_recipe = meant.rl_recipe
    LEFT JOIN started ON started.id = meant.c.id AND started.rl_recipe = meant.rl_recipe
)
SELECT forecast_id, created_at, predictor, outcome, rl_recipe, c.id AS id,
       variant, sft_learning_rate, epochs, data_seed, pass_at_1, start_pass_at_1,
       c.point AS point, c.low AS low, c.high AS high, c.low_50 AS low_50, c.high_50 AS high_50,
       c.p_best AS p_best, c.expected_regret AS expected_regret, measured, measured BETWEEN c.low AND c.high AS inside,
       rl_created_at, created_at < rl_created_at AS before_rl
FROM compared LEFT JOIN starts ON starts.id = compared.c.id;
