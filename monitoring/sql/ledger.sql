-- The ledger of budgets: what is reserved before a model call, and settled by its usage record, in one transaction each.
-- It lives in the database so that the accounts and the usage records cannot disagree, whoever writes the records.
--
-- Whoever locks several accounts locks them by quota, subject and period, so that no two wait for each other.
--
-- What each turn calls has its statements planned once: for a list of accounts whose length is not known Postgres would
-- plan them anew each time, which costs as much again as running them.
-- A change of this file needs a migration that runs it again.

-- Whom a model call counts for.
CREATE OR REPLACE FUNCTION monitoring_subjects(owner_id bigint, agent_type_id bigint, session_id uuid, run_id uuid)
RETURNS TABLE (subject text) LANGUAGE sql STABLE AS $$
    SELECT 'site'
    UNION ALL SELECT 'user:' || $1
    UNION ALL SELECT 'agent_type:' || $2 WHERE $2 IS NOT NULL
    UNION ALL SELECT 'session:' || $3 WHERE $3 IS NOT NULL
    UNION ALL SELECT 'run:' || $4 WHERE $4 IS NOT NULL
    UNION ALL SELECT 'group:' || g.group_id FROM auth_user_groups g WHERE g.user_id = $1
$$;

-- The budgets that a model call counts for at a time.
CREATE OR REPLACE FUNCTION monitoring_budgets(
    owner_id bigint, agent_type_id bigint, session_id uuid, run_id uuid, at timestamptz
) RETURNS TABLE (quota_id bigint, subject text, period_start timestamptz) LANGUAGE sql STABLE AS $$
    SELECT q.id, s.subject,
        CASE q.period WHEN 'total' THEN timestamptz 'epoch' ELSE date_trunc(q.period, at, 'UTC') END
    FROM monitoring_quota q
    JOIN monitoring_subjects($1, $2, $3, $4) s ON split_part(s.subject, ':', 1) = q.scope
    WHERE q.is_enabled AND q.measure IN ('tokens', 'cost')
        AND split_part(s.subject, ':', 2) = COALESCE(
            q.group_id::text, q.user_id::text, q.agent_type_id::text, q.session_id::text, split_part(s.subject, ':', 2))
    ORDER BY 1, 2
$$;

-- An amount as accounts count it: tokens, or millionths of the currency.
CREATE OR REPLACE FUNCTION monitoring_units(measure text, tokens bigint, cost bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE measure WHEN 'cost' THEN cost ELSE tokens END
$$;

CREATE OR REPLACE FUNCTION monitoring_limit_units(measure text, amount numeric) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT floor(CASE measure WHEN 'cost' THEN amount * 1000000 ELSE amount END)::bigint
$$;

-- What one subject has used in a period, by the usage records. A query for each kind, so that each is planned once.
CREATE OR REPLACE FUNCTION monitoring_sum(measure text, period text, subject text, period_start timestamptz)
RETURNS bigint LANGUAGE plpgsql STABLE SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    kind text := split_part(subject, ':', 1);
    key text := split_part(subject, ':', 2);
    period_end timestamptz := CASE WHEN period = 'total' THEN 'infinity'
        ELSE (period_start AT TIME ZONE 'UTC' + ('1 ' || period)::interval) AT TIME ZONE 'UTC' END;
    tokens bigint;
    costs bigint;
BEGIN
    CASE kind
    WHEN 'site' THEN
        SELECT sum(r.input_tokens::bigint + r.output_tokens), sum((r.cost * 1000000)::bigint) INTO tokens, costs
        FROM sessions_app_usagerecord r WHERE r.created_at >= period_start AND r.created_at < period_end;
    WHEN 'user' THEN
        SELECT sum(r.input_tokens::bigint + r.output_tokens), sum((r.cost * 1000000)::bigint) INTO tokens, costs
        FROM sessions_app_usagerecord r
        WHERE r.owner_id = key::bigint AND r.created_at >= period_start AND r.created_at < period_end;
    WHEN 'agent_type' THEN
        SELECT sum(r.input_tokens::bigint + r.output_tokens), sum((r.cost * 1000000)::bigint) INTO tokens, costs
        FROM sessions_app_usagerecord r
        WHERE r.agent_type_id = key::bigint AND r.created_at >= period_start AND r.created_at < period_end;
    WHEN 'session' THEN
        SELECT sum(r.input_tokens::bigint + r.output_tokens), sum((r.cost * 1000000)::bigint) INTO tokens, costs
        FROM sessions_app_usagerecord r
        WHERE r.session_id = key::uuid AND r.created_at >= period_start AND r.created_at < period_end;
    WHEN 'run' THEN
        SELECT sum(r.input_tokens::bigint + r.output_tokens), sum((r.cost * 1000000)::bigint) INTO tokens, costs
        FROM sessions_app_usagerecord r
        WHERE r.run_id = key::uuid AND r.created_at >= period_start AND r.created_at < period_end;
    WHEN 'group' THEN
        SELECT sum(r.input_tokens::bigint + r.output_tokens), sum((r.cost * 1000000)::bigint) INTO tokens, costs
        FROM sessions_app_usagerecord r
        WHERE r.owner_id IN (SELECT g.user_id FROM auth_user_groups g WHERE g.group_id = key::integer)
            AND r.created_at >= period_start AND r.created_at < period_end;
    END CASE;
    RETURN COALESCE(monitoring_units(measure, tokens, costs), 0);
END $$;

-- The accounts that a model call counts for at a time; those that are not there yet are made, not counted.
CREATE OR REPLACE FUNCTION monitoring_accounts(
    owner_id bigint, agent_type_id bigint, session_id uuid, run_id uuid, at timestamptz
) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    ids bigint[];
    is_one_missing boolean;
BEGIN
    SELECT array_agg(a.id), bool_or(a.id IS NULL) INTO ids, is_one_missing
    FROM monitoring_budgets($1, $2, $3, $4, $5) b
    LEFT JOIN monitoring_account a ON (a.quota_id, a.subject, a.period_start) = (b.quota_id, b.subject, b.period_start);
    IF is_one_missing THEN
        INSERT INTO monitoring_account (quota_id, subject, period_start, used, reserved, extra, is_counted)
        SELECT b.quota_id, b.subject, b.period_start, 0, 0, 0, false
        FROM monitoring_budgets($1, $2, $3, $4, $5) b
        JOIN monitoring_quota q ON q.id = b.quota_id
        WHERE NOT EXISTS (
            SELECT 1 FROM monitoring_account a
            WHERE (a.quota_id, a.subject, a.period_start) = (b.quota_id, b.subject, b.period_start))
        ORDER BY 1, 2
        FOR KEY SHARE OF q  -- one that is deleted meanwhile gets no account
        ON CONFLICT DO NOTHING;
        SELECT array_agg(a.id) INTO ids
        FROM monitoring_budgets($1, $2, $3, $4, $5) b
        JOIN monitoring_account a ON (a.quota_id, a.subject, a.period_start) = (b.quota_id, b.subject, b.period_start);
    END IF;
    RETURN COALESCE(ids, '{}');
END $$;

-- Sum up what was used before an account was there; the caller holds its row's lock. So does whoever settles a record:
-- under the lock the sum misses no record and counts none twice.
CREATE OR REPLACE FUNCTION monitoring_count(in_account bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    total bigint;
BEGIN
    UPDATE monitoring_account a
    SET is_counted = true, used = monitoring_sum(q.measure, q.period, a.subject, a.period_start)
    FROM monitoring_quota q WHERE q.id = a.quota_id AND a.id = in_account
    RETURNING a.used INTO total;
    RETURN total;
END $$;

-- Reserve a call's worst case in every account that it counts for, or in none. Prices are millionths of the currency
-- for a million tokens. If the wanted output does not fit, it shrinks, down to `min_output`.
--
-- status: granted; refused (`quota_id`, `subject` and `room` tell where, `needed` what is the least); stale (the session
-- has another writer by now, or is gone).
CREATE OR REPLACE FUNCTION monitoring_reserve(
    in_session uuid, in_run uuid, in_epoch bigint, in_purpose text, in_model text,
    in_input integer, in_output integer, min_output integer, input_price bigint, output_price bigint
) RETURNS TABLE (
    status text, reservation_id bigint, output_tokens integer, quota_id bigint, subject text, needed bigint, room bigint,
    warnings jsonb
) LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    own record;
    account record;
    ids bigint[];
    unwarned bigint[] := '{}';
    input_cost bigint := ceil(in_input::numeric * input_price / 1000000);
    least_cost bigint := input_cost + ceil(min_output::numeric * output_price / 1000000);
    most_cost bigint := input_cost + ceil(in_output::numeric * output_price / 1000000);
    granted bigint := in_output;
    left_over bigint;
    most bigint;
    fits bigint;
    cost bigint;
BEGIN
    SELECT s.owner_id, s.agent_type_id, s.epoch INTO own FROM sessions_app_agentsession s WHERE s.id = in_session;
    IF NOT FOUND OR own.epoch <> in_epoch THEN
        status := 'stale';
        RETURN NEXT;
        RETURN;
    END IF;
    ids := monitoring_accounts(own.owner_id, own.agent_type_id, in_session, in_run, clock_timestamp());
    FOR account IN
        SELECT a.*, q.measure, q.action, q.warn_percent, monitoring_limit_units(q.measure, q."limit") + a.extra AS units
        FROM monitoring_account a JOIN monitoring_quota q ON q.id = a.quota_id WHERE a.id = ANY(ids)
        ORDER BY a.quota_id, a.subject, a.period_start FOR UPDATE OF a
    LOOP
        IF NOT account.is_counted THEN
            account.used := monitoring_count(account.id);
        END IF;
        left_over := account.units - account.used - account.reserved;
        -- At most so much is taken; whether that is enough for a warning is known below.
        most := monitoring_units(account.measure, in_input::bigint + in_output, most_cost);
        IF account.warned_at IS NULL AND (account.units - left_over + most)::numeric * 100
            >= account.units::numeric * account.warn_percent
        THEN
            unwarned := unwarned || account.id;
        END IF;
        CONTINUE WHEN account.action = 'warn';
        IF account.measure = 'tokens' THEN
            fits := left_over - in_input;
        ELSIF output_price > 0 THEN
            fits := floor((left_over - input_cost)::numeric * 1000000 / output_price);
        ELSE
            fits := CASE WHEN left_over >= input_cost THEN in_output ELSE -1 END;
        END IF;
        IF fits < granted THEN
            granted := fits;
            quota_id := account.quota_id;
            subject := account.subject;
            room := left_over;
            needed := monitoring_units(account.measure, in_input::bigint + min_output, least_cost);
        END IF;
    END LOOP;
    IF granted < LEAST(min_output, in_output) THEN
        status := 'refused';
        RETURN NEXT;
        RETURN;
    END IF;
    status := 'granted';
    output_tokens := granted;
    IF ids <> '{}' THEN
        cost := input_cost + ceil(granted::numeric * output_price / 1000000);
        INSERT INTO monitoring_reservation AS r (
            session_id, run_id, epoch, purpose, model, input_tokens, output_tokens, cost, account_ids, created_at)
        VALUES (in_session, in_run, in_epoch, in_purpose, in_model, in_input, granted, cost, ids, clock_timestamp())
        RETURNING r.id INTO reservation_id;
        UPDATE monitoring_account a
        SET reserved = a.reserved + monitoring_units(q.measure, in_input + granted, cost)
        FROM monitoring_quota q WHERE q.id = a.quota_id AND a.id = ANY(ids);
        IF unwarned <> '{}' THEN
            WITH warned AS (
                UPDATE monitoring_account a SET warned_at = clock_timestamp()
                FROM monitoring_quota q
                WHERE q.id = a.quota_id AND a.id = ANY(unwarned) AND (a.used + a.reserved)::numeric * 100
                    >= (monitoring_limit_units(q.measure, q."limit") + a.extra)::numeric * q.warn_percent
                RETURNING a.quota_id, a.subject, a.used + a.reserved AS taken,
                    monitoring_limit_units(q.measure, q."limit") + a.extra AS units
            )
            SELECT jsonb_agg(jsonb_build_object(
                'quota_id', w.quota_id, 'subject', w.subject, 'taken', w.taken, 'units', w.units)) INTO warnings
            FROM warned w;
        END IF;
    END IF;
    RETURN NEXT;
END $$;

-- Lock accounts, all in the one order.
CREATE OR REPLACE FUNCTION monitoring_lock(in_ids bigint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF cardinality(in_ids) > 1 THEN  -- one alone is locked by what follows
        PERFORM 1 FROM monitoring_account a WHERE a.id = ANY(in_ids)
        ORDER BY a.quota_id, a.subject, a.period_start FOR UPDATE;
    END IF;
END $$;

-- Take a reservation back from its accounts and forget it.
CREATE OR REPLACE FUNCTION monitoring_release(in_reservation bigint) RETURNS void
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    reservation monitoring_reservation;
BEGIN
    DELETE FROM monitoring_reservation WHERE id = in_reservation RETURNING * INTO reservation;
    IF FOUND THEN
        PERFORM monitoring_lock(reservation.account_ids);
        UPDATE monitoring_account a
        SET reserved = a.reserved - monitoring_units(
            q.measure, reservation.input_tokens::bigint + reservation.output_tokens, reservation.cost)
        FROM monitoring_quota q WHERE q.id = a.quota_id AND a.id = ANY(reservation.account_ids);
    END IF;
END $$;

-- A usage record takes its reservation back, and is added to the accounts of its own time. One that is not counted yet
-- finds this record when it is.
CREATE OR REPLACE FUNCTION monitoring_settle() RETURNS trigger
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    reservation monitoring_reservation;
    reserved_ids bigint[] := '{}';
    ids bigint[];
BEGIN
    IF NEW.reservation_id IS NOT NULL THEN
        DELETE FROM monitoring_reservation WHERE id = NEW.reservation_id RETURNING * INTO reservation;
        IF FOUND THEN
            reserved_ids := reservation.account_ids;
        END IF;
    END IF;
    ids := monitoring_accounts(NEW.owner_id, NEW.agent_type_id, NEW.session_id, NEW.run_id, NEW.created_at);
    IF ids <> reserved_ids THEN
        PERFORM monitoring_lock(ids || reserved_ids);
    ELSE
        PERFORM monitoring_lock(ids);
    END IF;
    UPDATE monitoring_account a
    SET reserved = a.reserved - CASE WHEN a.id = ANY(reserved_ids) THEN monitoring_units(
            q.measure, reservation.input_tokens::bigint + reservation.output_tokens, reservation.cost) ELSE 0 END,
        used = a.used + CASE WHEN a.id = ANY(ids) AND a.is_counted THEN monitoring_units(
            q.measure, NEW.input_tokens::bigint + NEW.output_tokens, (NEW.cost * 1000000)::bigint) ELSE 0 END
    FROM monitoring_quota q WHERE q.id = a.quota_id AND a.id = ANY(ids || reserved_ids);
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER monitoring_settle AFTER INSERT ON sessions_app_usagerecord
FOR EACH ROW EXECUTE FUNCTION monitoring_settle();

-- A session, run, person, group or agent type is gone, and its accounts with it.
CREATE OR REPLACE FUNCTION monitoring_forget() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM monitoring_account a USING gone, monitoring_quota q
    WHERE q.scope = TG_ARGV[0] AND a.quota_id = q.id AND a.subject = TG_ARGV[0] || ':' || gone.id;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER monitoring_forget AFTER DELETE ON sessions_app_agentsession
REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION monitoring_forget('session');
CREATE OR REPLACE TRIGGER monitoring_forget AFTER DELETE ON sessions_app_run
REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION monitoring_forget('run');
CREATE OR REPLACE TRIGGER monitoring_forget AFTER DELETE ON sessions_app_agenttype
REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION monitoring_forget('agent_type');
CREATE OR REPLACE TRIGGER monitoring_forget AFTER DELETE ON auth_user
REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION monitoring_forget('user');
CREATE OR REPLACE TRIGGER monitoring_forget AFTER DELETE ON auth_group
REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION monitoring_forget('group');

-- Sum these accounts up anew at their next call.
CREATE OR REPLACE FUNCTION monitoring_recount(in_ids bigint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM monitoring_account a WHERE a.id = ANY(in_ids)
    ORDER BY a.quota_id, a.subject, a.period_start FOR UPDATE;
    UPDATE monitoring_account a SET is_counted = false WHERE a.id = ANY(in_ids);
END $$;

-- Who is in a group has changed: it has used what its members of now have used.
CREATE OR REPLACE FUNCTION monitoring_recount_group() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM monitoring_recount(ARRAY(
        SELECT a.id FROM monitoring_account a JOIN monitoring_quota q ON q.id = a.quota_id
        WHERE q.scope = 'group' AND a.subject IN (SELECT 'group:' || changed.group_id FROM changed)));
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER monitoring_joined AFTER INSERT ON auth_user_groups
REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION monitoring_recount_group();
CREATE OR REPLACE TRIGGER monitoring_left AFTER DELETE ON auth_user_groups
REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION monitoring_recount_group();

-- Records go only together with the person whose they are; what they were counted in is summed up anew.
CREATE OR REPLACE FUNCTION monitoring_recount_records() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM monitoring_recount(ARRAY(
        SELECT a.id FROM monitoring_account a JOIN monitoring_quota q ON q.id = a.quota_id
        WHERE (q.scope IN ('site', 'group') AND EXISTS (SELECT 1 FROM gone)) OR a.subject IN (
            SELECT 'user:' || gone.owner_id FROM gone
            UNION SELECT 'agent_type:' || gone.agent_type_id FROM gone
            UNION SELECT 'session:' || gone.session_id FROM gone
            UNION SELECT 'run:' || gone.run_id FROM gone)));
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER monitoring_deleted AFTER DELETE ON sessions_app_usagerecord
REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION monitoring_recount_records();
