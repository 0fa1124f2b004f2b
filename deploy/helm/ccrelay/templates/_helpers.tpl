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
