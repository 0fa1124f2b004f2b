{{- define "ccrelay.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}
{{- define "ccrelay.selector" -}}
app.kubernetes.io/name: ccrelay
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- define "ccrelay.labels" -}}
{{ include "ccrelay.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}
{{- define "ccrelay.scheme" -}}
{{ if .Values.operations.tls }}HTTPS{{ else }}HTTP{{ end }}
{{- end }}
{{- /* The lines of one table of the configuration: a list of the configuration and the table's name. */ -}}
{{- define "ccrelay.table" -}}
{{ regexFind (printf `(?ms)^[ \t]*\[%s\].*?(?:^[ \t]*\[|\z)` (index . 1)) (index . 0) }}
{{- end }}
{{- /* Refuses configurations that ccrelay takes and that cannot work behind the ports and probes of this chart. */ -}}
{{- define "ccrelay.refusals" -}}
{{- $callback := include "ccrelay.table" (list .Values.config "callback") }}
{{- if and (regexMatch `(?m)^[ \t]*listen[ \t]*=` $callback) (not (regexMatch `(?m)^[ \t]*listen[ \t]*=.*:8443["']` $callback)) }}
{{- fail "config: [callback] listen must have the port 8443, where the chart's Service leads; callback.service.port is what the gateway sees" }}
{{- end }}
{{- $certificate := regexMatch `(?m)^[ \t]*certificate_file[ \t]*=` (include "ccrelay.table" (list .Values.config "operations")) }}
{{- if and $certificate (not .Values.operations.tls) }}
{{- fail "config: [operations] has a certificate_file, so operations.tls must be true: probes would ask by HTTP where HTTPS is spoken" }}
{{- end }}
{{- if and .Values.operations.tls (not $certificate) }}
{{- fail "operations.tls is true, so config must have certificate_file and key_file in [operations]: probes would ask by HTTPS where HTTP is spoken" }}
{{- end }}
{{- $grace := regexFind `(?m)^[ \t]*grace_secs[ \t]*=[ \t]*[0-9]+` (include "ccrelay.table" (list .Values.config "shutdown")) | regexFind `[0-9]+$` | default "20" }}
{{- if le (int .Values.terminationGracePeriodSeconds) (int $grace) }}
{{- fail (printf "terminationGracePeriodSeconds must be more than shutdown.grace_secs of the configuration, which is %s: a pod that takes longer is killed in the middle of its stop" $grace) }}
{{- end }}
{{- end }}
