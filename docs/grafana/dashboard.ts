// What a dashboard may contain, for docs/grafana/check: the types of @grafana/schema, with the
// options, fields and queries of the panels that we use filled in.

import type * as schema from '@grafana/schema';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as timeseries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';
// Later versions do not have the queries of Prometheus.
import type * as prometheus from '@grafana/schema-10/dist/esm/raw/composable/prometheus/dataquery/x/PrometheusDataQuery_types.gen';

export type Dashboard = Replace<
  Plain<schema.Dashboard>,
  { panels: AnyPanel[]; templating: { list: Variable[] } }
>;

type AnyPanel =
  | Panel<'stat', stat.Options, {}>
  | Panel<'timeseries', timeseries.Options, timeseries.FieldConfig>
  | Plain<schema.RowPanel>;

type Panel<Type extends string, Options, Custom> = Replace<
  Plain<schema.Panel>,
  {
    type: Type;
    options: Plain<Options>;
    fieldConfig: Replace<
      Plain<schema.FieldConfigSource>,
      { defaults: Replace<Plain<schema.FieldConfig>, { custom?: Plain<Custom> }> }
    >;
    targets: Query[];
  }
>;

type Query = Replace<Plain<prometheus.PrometheusDataQuery>, { datasource: schema.DataSourceRef }>;

// Grafana keeps the query of a variable here as well. The types have that in version 2 only.
type Variable = Plain<schema.VariableModel> & { definition?: string };

// Not an intersection: that would accept what only one of both accepts.
type Replace<T, Fields> = Omit<T, keyof Fields> & Fields;

// JSON has the values of enums, and TypeScript accepts only their names.
type Plain<T> = T extends string
  ? `${T}`
  : T extends number
    ? Value<`${T}`>
    : T extends object
      ? { [Key in keyof T]: Plain<T[Key]> }
      : T;

type Value<Digits> = Digits extends `${infer Number extends number}` ? Number : never;
